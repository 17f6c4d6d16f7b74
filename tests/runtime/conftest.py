"""One small random model with the demo's tokenizer, shared by the tests of the runtime."""

import pytest

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
    max_positions=256,
)
ENGINE = fj.EngineConfig(
    page_size=4, num_pages=120, max_model_len=128, max_num_seqs=4, max_num_batched_tokens=32
)


@pytest.fixture(scope="session")
def weights():
    return init_params(CONFIG, seed=1)


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(DEMO_MODEL)


@pytest.fixture(scope="session")
def shared_llm(weights, tokenizer):
    return fj.LLM(CONFIG, weights, tokenizer, engine=ENGINE, eos_token_ids=(2,))


@pytest.fixture
def llm(shared_llm):
    """The shared model; every test must leave its engine idle and its pages free."""
    yield shared_llm
    engine = shared_llm.engine
    assert not engine.has_work
    assert engine.free_pages == engine.kv.num_pages - 1


@pytest.fixture
def make_llm(weights, tokenizer):
    """Another engine over the same weights: `make_llm(max_num_seqs=2, ...)`."""

    def make(**changes):
        from dataclasses import replace

        return fj.LLM(
            CONFIG, weights, tokenizer, engine=replace(ENGINE, **changes), eos_token_ids=(2,)
        )

    return make
