"""Dense causal attention over ragged sequences: differentiable, no cache, every weight formed.

Dimension key: T tokens (queries), S the same tokens as keys, N query heads, K kv heads,
G = N / K, H head.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.types import AttentionConfig, LayerCache, ModelError

MASKED = -1e30
"""Finite, so that a row without a visible key gives no nan."""


def dense_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    layer_cache: LayerCache | None,
    meta: Int[Array, " T"],
    spec: AttentionConfig,
    *,
    sinks: Float[Array, " N"] | None = None,
    tap_pattern: Callable[[Array], Array] | None = None,
) -> tuple[Float[Array, "T N H"], None]:
    """Attention of each token to the earlier tokens of its own sequence.

    `meta` holds the positions; a sequence starts wherever a position does not follow the one
    before it. Scores and softmax are fp32. Memory grows with T squared.

    Raises:
        ModelError: a cache was given.
    """
    if layer_cache is not None:
        raise ModelError("dense_attention keeps no cache; pass cache=None or use paged attention")
    groups = spec.num_heads // spec.num_kv_heads
    q_TKGH = q.reshape(q.shape[0], spec.num_kv_heads, groups, spec.head_dim)
    scores = jnp.einsum("TKGH,SKH->KGTS", q_TKGH, k, preferred_element_type=jnp.float32)
    scores = soft_capped(scores * spec.scale, spec.soft_cap)
    scores = jnp.where(causal_mask(meta, spec.window), scores, MASKED)
    weights = _softmax(scores, sinks, groups)
    if tap_pattern is not None:
        weights = tap_pattern(weights.reshape(spec.num_heads, *weights.shape[2:]))
        weights = weights.reshape(spec.num_kv_heads, groups, *weights.shape[1:])
    out = jnp.einsum("KGTS,SKH->TKGH", weights.astype(v.dtype), v)
    return out.reshape(q.shape), None


def soft_capped(scores: Array, cap: float | None) -> Array:
    """cap * tanh(scores / cap); unchanged without a cap."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def causal_mask(positions: Int[Array, " T"], window: int | None) -> Bool[Array, "T T"]:
    """Which keys (columns) a query (row) sees: same sequence, not later, within the window."""
    starts = jnp.concatenate([jnp.ones(1, bool), positions[1:] != positions[:-1] + 1])
    segment = jnp.cumsum(starts)
    index = jnp.arange(positions.shape[0])
    distance = index[:, None] - index[None, :]
    mask = (segment[:, None] == segment[None, :]) & (distance >= 0)
    return mask if window is None else mask & (distance < window)


def _softmax(scores: Float[Array, "K G T S"], sinks: Array | None, groups: int) -> Array:
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    sink = sinks.astype(jnp.float32).reshape(-1, groups, 1, 1)
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), sink)
    exp = jnp.exp(scores - top)
    return exp / (jnp.sum(exp, axis=-1, keepdims=True) + jnp.exp(sink - top))
