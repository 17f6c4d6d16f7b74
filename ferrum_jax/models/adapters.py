"""Low-rank adapters (Hu et al. 2021) against a model: which parameters they may change, whether
they fit, and the weights with their changes added."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from ferrum_jax.models.params import Params
from ferrum_jax.models.quantized import refuse_quantized
from ferrum_jax.models.shapes import flatten_shapes, path_name
from ferrum_jax.types import Adapters, LowRank, ModelConfig, RequestError

CHANGEABLE = {
    "attention": ("qkv", "o", "gate", "q", "q_down", "kv_down", "kv_up"),
    "mlp": ("gate_up", "down", "gate", "up", "latent_down", "latent_up"),
    "experts_beside": ("gate", "up", "down"),
    "shared": ("gate_up", "down"),
}
"""The projections that the forward changes for an adapter, by their block."""


def changeable(path: str) -> bool:
    """Whether the parameter at `layers.3.attention.qkv` can have a low-rank change."""
    *_, block, name = ("", "", *path.split("."))
    return name in CHANGEABLE.get(block, ())


def as_matrix(path: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Inputs and output axes of a parameter; of experts, those of each."""
    if of_experts(path, shape):
        return shape[1], shape[2:]
    inputs = 2 if path.endswith("attention.o") else 1
    return math.prod(shape[:inputs]), shape[inputs:]


def of_experts(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter holds a matrix for each expert."""
    *_, block, name = ("", "", *path.split("."))
    return block in ("mlp", "experts_beside") and name in ("gate", "up", "down") and len(shape) == 3


def check_adapters(config: ModelConfig, adapters: Adapters) -> None:
    """Raise `RequestError` unless each change is of a parameter of the model and of its shape."""
    shapes = _shapes(config)
    for path, change in adapters.changes.items():
        shape = shapes.get(path)
        if shape is None or not changeable(path):
            raise RequestError(
                f"the adapter changes {path}, which this model does not have as a projection of "
                "attention, an MLP or experts; load it for this model's config"
            )
        inputs, outputs = as_matrix(path, shape)
        experts = shape[:1] if of_experts(path, shape) else ()
        rank = change.a.shape[-1]
        wanted = (*experts, inputs, rank), (*experts, rank, *outputs)
        if (tuple(change.a.shape), tuple(change.b.shape)) != wanted:
            raise RequestError(
                f"the adapter's change of {path} is {change.a.shape} times {change.b.shape}; "
                f"this model's is {wanted[0]} times {wanted[1]}"
            )


@lru_cache(maxsize=8)
def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return flatten_shapes(config)


def merge_adapters(params: Params, adapters: Adapters) -> Params:
    """The weights with one request's adapter added; those without a change are shared.

    Sums are formed in fp32 and rounded once to the weights' dtype.

    Raises:
        UnsupportedError: weights are rounded.
    """

    refuse_quantized(params, "merging an adapter")

    def merged(path: tuple[Any, ...], weight: jax.Array) -> jax.Array:
        name = path_name(path)
        change = adapters.changes.get(name)
        return weight if change is None else _merged(weight, change, adapters.weights)

    return jax.tree_util.tree_map_with_path(merged, params)


@jax.jit
def _merged(weight: jax.Array, change: LowRank, weights: jax.Array) -> jax.Array:
    scales_R = (weights @ change.scales)[0]
    a, b = change.a.astype(jnp.float32) * scales_R, change.b.astype(jnp.float32)
    exact = jax.lax.Precision.HIGHEST
    if a.ndim == 3:
        added = jnp.einsum("EIR,ERO->EIO", a, b, precision=exact)
    else:
        added = jnp.matmul(a, b.reshape(b.shape[0], -1), precision=exact)
    return (weight.astype(jnp.float32) + added.reshape(weight.shape)).astype(weight.dtype)
