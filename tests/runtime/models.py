"""Small random models of three kinds, for tests that compare runs."""

from dataclasses import replace

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.runtime.engine import Engine
from ferrum_jax.types import (
    AttentionConfig,
    Completion,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
)

VOCAB = 600
ATTENTION = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25, rope=RopeConfig())
DENSE = LayerSpec(ATTENTION, MLPConfig(160))
WINDOWED = LayerSpec(replace(ATTENTION, window=9), MLPConfig(160))
SPARSE = LayerSpec(ATTENTION, MoEConfig(num_experts=6, experts_per_token=2, ffn_size=48))
LAYERS = {
    "dense": (DENSE, DENSE),
    "windowed": (WINDOWED, DENSE),
    "moe": (SPARSE, SPARSE),
}


def model(kind: str) -> ModelConfig:
    """A model of 2 layers and width 64."""
    return ModelConfig(
        model_type="llama",
        vocab_size=VOCAB,
        hidden_size=64,
        layers=LAYERS[kind],
        max_positions=512,
    )


def idle(llm: fj.LLM) -> bool:
    """Whether nothing runs and every page is free."""
    engine = llm.engine
    return not engine.has_work and engine.free_pages == engine.blocks.num_total


def completions(engine: Engine, *requests: int) -> list[Completion]:
    """The first completion of each request, when all that runs has ended."""
    while engine.has_work:
        engine.step()
    return [engine.take(request).outputs[0] for request in requests]


def make_llm(kind: str, engine: fj.EngineConfig, dtype: str = "float32") -> fj.LLM:
    config = model(kind)
    return fj.LLM(config, init_params(config, seed=3, dtype=dtype), engine=engine)
