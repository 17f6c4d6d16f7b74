"""Normalisation layers, in fp32 whatever the input's dtype."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from ferrum_jax.models.params import NormParams
from ferrum_jax.types import NormKind


def normalise(
    x: Float[Array, "*batch D"], params: NormParams, kind: NormKind, eps: float
) -> Float[Array, "*batch D"]:
    """Normalise the last axis and scale it; computed in fp32, returned in `x`'s dtype."""
    x32 = x.astype(jnp.float32)
    if kind.centred:
        x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    x32 = x32 / jnp.sqrt(variance + eps)
    if params.weight is not None:
        weight = params.weight.astype(jnp.float32)
        x32 = x32 * (1.0 + weight if kind.unit_offset else weight)
    if params.bias is not None:
        x32 = x32 + params.bias.astype(jnp.float32)
    return x32.astype(x.dtype)
