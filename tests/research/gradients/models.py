"""A small random model with a dense layer and one of experts."""

import numpy as np

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.types import (
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormPlacement,
    RopeConfig,
)

ATTENTION = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=4, scale=0.5, rope=RopeConfig())
CONFIG = ModelConfig(
    model_type="llama",
    vocab_size=37,
    hidden_size=16,
    layers=(
        LayerSpec(ATTENTION, MLPConfig(24)),
        LayerSpec(ATTENTION, MoEConfig(4, 2, 12), placement=NormPlacement.SANDWICH),
    ),
    max_positions=64,
)
ENGINE = fj.EngineConfig(
    page_size=4, num_pages=40, max_model_len=32, max_num_seqs=2, max_num_batched_tokens=16
)
PROMPT = [3, 14, 15, 9, 26, 5]


def make_params():
    """Embeddings of unit size, so that small steps stay small behind a norm."""
    params = init_params(CONFIG, seed=2)
    return params.replace(embed=params.embed * 50)


def metric(logits):
    """A difference of two logits behind the last token."""
    return logits[-1, 7] - logits[-1, 20]


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
