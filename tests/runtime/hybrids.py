"""Small random models with recurrent layers: one of each mixer, attention above or beside it."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np

import ferrum_jax as fj
from ferrum_jax.models import Params, init_params
from ferrum_jax.types import (
    GatedDeltaConfig,
    KDAConfig,
    LayerSpec,
    LightningConfig,
    Mamba2Config,
    MambaConfig,
    MLPConfig,
    ModelConfig,
    ShortConvConfig,
)
from tests.runtime.models import ATTENTION, VOCAB

WIDTH = 32
ABOVE = LayerSpec(replace(ATTENTION, num_heads=2, num_kv_heads=1))
MAMBA_2 = Mamba2Config(num_heads=4, head_dim=8, state_size=6, num_groups=2, conv_size=4)
MIXERS = {
    "mamba": MambaConfig(inner_size=40, state_size=5, conv_size=4, dt_rank=3),
    "mamba2": MAMBA_2,
    "gated delta": GatedDeltaConfig(
        num_key_heads=2, num_value_heads=4, key_dim=6, value_dim=8, conv_size=4
    ),
    "kimi delta": KDAConfig(num_heads=3, head_dim=8, conv_size=4),
    "lightning": LightningConfig(num_heads=4, head_dim=8, decays=(0.02, 0.1, 0.4, 1.5)),
    "short conv": ShortConvConfig(size=3, channels=WIDTH),
}
LAYERS = {
    **{
        name: (LayerSpec(recurrent=mixer, mlp=MLPConfig(40)), ABOVE)
        for name, mixer in MIXERS.items()
    },
    "mamba2 beside attention": (replace(ABOVE, recurrent=MAMBA_2), ABOVE),
}


def model(kind: str) -> ModelConfig:
    """Two layers, the first with a state."""
    return ModelConfig(
        model_type="hybrid",
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        layers=LAYERS[kind],
        max_positions=512,
    )


def weights(config: ModelConfig) -> Params:
    """Random, nothing neutral; time steps are short, so that states remember."""
    rng = np.random.default_rng(2)

    def drawn(path: tuple, x: jax.Array) -> jax.Array:
        shift = -3.0 if str(getattr(path[-1], "name", "")) == "dt_bias" else 0.0
        return x + shift + 0.1 * rng.standard_normal(x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, init_params(config, seed=3))


def make_llm(kind: str, engine: fj.EngineConfig) -> fj.LLM:
    config = model(kind)
    return fj.LLM(config, weights(config), engine=engine)
