"""A small random model with the demo's tokenizer, and texts to fit."""

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.runtime.llm import DEMO_MODEL
from ferrum_jax.tokenizer import load_tokenizer
from ferrum_jax.types import AttentionConfig, LayerSpec, MLPConfig, ModelConfig, RopeConfig

ATTENTION = AttentionConfig(
    num_heads=4, num_kv_heads=2, head_dim=8, scale=8**-0.5, rope=RopeConfig()
)
CONFIG = ModelConfig(
    model_type="llama",
    vocab_size=4096,
    hidden_size=32,
    layers=(LayerSpec(ATTENTION, MLPConfig(48)),) * 2,
    max_positions=128,
)
ENGINE = fj.EngineConfig(
    page_size=4, num_pages=120, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32
)
PAIRS = [([5, 6, 7], [900, 901]), ([8, 9], [900, 901]), ([10, 11, 12, 13], [900, 901])]
"""Whatever the prompt, the same completion."""
HELD_OUT = [([20, 21, 22], [900, 901]), ([23], [900, 901])]


def make_llm(config=CONFIG):
    params = init_params(config, seed=1)
    return fj.LLM(config, params, load_tokenizer(DEMO_MODEL), engine=ENGINE)


def nats_per_completion_token(llm, pairs, wrap=list, **kwargs):
    """The loss of pairs as the engine scores them."""
    texts = [wrap([*prompt, *completion]) for prompt, completion in pairs]
    scores = llm.score(texts, **kwargs)
    counted = [x for score in scores for x in score.logprobs[-2:]]
    return -sum(counted) / len(counted)
