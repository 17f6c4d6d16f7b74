"""Random parameters."""

from __future__ import annotations

import jax
import numpy as np

from ferrum_jax.models.host_memory import for_weights
from ferrum_jax.models.params import Params
from ferrum_jax.models.shapes import flatten_shapes, unflatten
from ferrum_jax.types import ModelConfig

NEUTRAL = {"D": 1.0, "scalar": 1.0, "router_scale": 1.0, "expert_scale": 1.0, "alpha": 0.5}
"""Leaves that start at a number, by their last name; `D` is a mixer's skip."""


def init_params(config: ModelConfig, seed: int = 0, dtype: str = "float32") -> Params:
    """Random parameters: matrices normal with std 1/sqrt(fan-in), embeddings 0.02, norms neutral.

    Drawn on the host by numpy, so that a seed means the same on every device and jax version.
    """
    rng = np.random.default_rng(seed)
    arrays = {
        name: jax.device_put(for_weights(_init_leaf(rng, name, shape, config), dtype))
        for name, shape in flatten_shapes(config).items()
    }
    return unflatten(config, arrays)


def _init_leaf(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], config: ModelConfig
) -> np.ndarray:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "weight":
        return np.full(shape, 0.0 if _unit_offset(name, config) else 1.0, np.float32)
    if leaf == "A_log":
        return np.broadcast_to(np.log(np.linspace(1, 8, shape[-1])), shape).astype(np.float32)
    if leaf in NEUTRAL:
        return np.full(shape, NEUTRAL[leaf], np.float32)
    if leaf.endswith("bias") or leaf == "sinks":
        return np.zeros(shape, np.float32)
    values = rng.standard_normal(shape, dtype=np.float32)
    if leaf == "embed":
        return values * np.float32(0.02)
    return values / np.float32(_fan_in(leaf, shape) ** 0.5)


def _fan_in(leaf: str, shape: tuple[int, ...]) -> int:
    """The inputs of a projection: two axes of `o`, the middle one of stacked experts."""
    if leaf == "o":
        return shape[0] * shape[1]
    return shape[1] if len(shape) == 3 and leaf not in ("gate_up", "qkv") else shape[0]


def _unit_offset(name: str, config: ModelConfig) -> bool:
    if name.startswith("final_norm"):
        return config.final_norm is not None and config.final_norm.unit_offset
    if not name.startswith("layers."):
        return False
    spec = config.layers[int(name.split(".")[1])]
    kind = getattr(spec.attention, "qk_norm", None) if ".attention." in name else spec.norm
    return kind is not None and kind.unit_offset and ".recurrent." not in name
