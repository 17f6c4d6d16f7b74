"""Dense causal attention over ragged sequences: differentiable, no cache, every weight formed.

Dimension key: T tokens (queries), S the same tokens as keys, N query heads, K kv heads,
G = N / K, M = G x T, H head.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.interfaces import Attend
from ferrum_jax.types import AttentionConfig, LayerCache, ModelError

MASKED = -1e30
"""Finite, so that a row without a visible key gives no nan."""


def dense_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K V"],
    layer_cache: LayerCache | None,
    meta: Int[Array, " T"],
    spec: AttentionConfig,
    *,
    sinks: Float[Array, " N"] | None = None,
    tap_pattern: Callable[[Array], Array] | None = None,
    cached: bool = False,
) -> tuple[Float[Array, "T N V"], None]:
    """Attention of each token to the earlier tokens of its own sequence.

    `meta` holds the positions; a sequence starts wherever a position does not follow the one
    before it. Scores and softmax are fp32. Memory grows with T squared.

    Raises:
        ModelError: a cache was given.
    """
    if layer_cache is not None:
        raise ModelError("dense_attention keeps no cache; pass cache=None or use paged attention")
    del cached
    tokens, kv_heads = q.shape[0], spec.num_kv_heads
    groups = spec.num_heads // kv_heads
    # Heads lead in both operands: XLA then runs one plain matmul per kv head.
    q_KGTH = q.reshape(tokens, kv_heads, groups, spec.head_dim).transpose(1, 2, 0, 3)
    q_KMH = q_KGTH.reshape(kv_heads, groups * tokens, spec.head_dim)
    k_KSH, v_KSH = k.transpose(1, 0, 2), v.transpose(1, 0, 2)
    scores = jnp.einsum("KMH,KSH->KMS", q_KMH, k_KSH, preferred_element_type=jnp.float32)
    scores = soft_capped(scores * spec.scale, spec.soft_cap)
    scores = scores.reshape(kv_heads, groups, tokens, tokens)
    if spec.alibi_slopes is not None:
        scores = scores + alibi(spec, meta[:, None], meta[None, :])
    scores = jnp.where(causal_mask(meta, spec.window, spec.chunk), scores, MASKED)
    weights = softmax_with_sinks(scores, sinks, groups)
    if tap_pattern is not None:
        pattern_TNS = weights.reshape(spec.num_heads, tokens, tokens).transpose(1, 0, 2)
        weights = _tapped(pattern_TNS, meta, tap_pattern).transpose(1, 0, 2)
    weights_KMS = weights.reshape(kv_heads, groups * tokens, tokens).astype(v.dtype)
    out = jnp.einsum("KMS,KSH->KMH", weights_KMS, v_KSH)
    out = out.reshape(kv_heads, groups, tokens, -1).transpose(2, 0, 1, 3)
    return out.reshape(tokens, spec.num_heads, -1), None


def _tapped(
    pattern_TNS: Float[Array, "T N S"],
    positions: Int[Array, " T"],
    tap_pattern: Callable[[Array], Array],
) -> Float[Array, "T N S"]:
    """`tap_pattern` sees each token's keys by their position in its own sequence, as paged
    attention shows them; here they lie by their index among all tokens."""
    index = jnp.arange(positions.shape[0])
    first_T11 = (index - positions)[:, None, None]

    def moved(x: Array, column: Array) -> Array:
        inside = (column >= 0) & (column < index.shape[0])
        column = jnp.broadcast_to(jnp.clip(column, 0, index.shape[0] - 1), x.shape)
        return jnp.where(inside, jnp.take_along_axis(x, column, axis=2), 0)

    return moved(tap_pattern(moved(pattern_TNS, index + first_T11)), index - first_T11)


def soft_capped(scores: Array, cap: float | None) -> Array:
    """cap * tanh(scores / cap); unchanged without a cap."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def alibi(
    spec: AttentionConfig, queries: Int[Array, "*q"], keys: Int[Array, "*k"]
) -> Float[Array, "K G *s"]:
    """What is added to the scores of keys at positions, each head by its slope (Press et al. 2022).

    Relative to the query, which a softmax does not see, except where it is rounded.
    """
    assert spec.alibi_slopes is not None
    slopes = jnp.asarray(spec.alibi_slopes, jnp.float32)
    if not spec.alibi_rounded:
        distance = (keys - queries).astype(jnp.float32)
        slopes = slopes.reshape(spec.num_kv_heads, -1, *[1] * distance.ndim)
        return slopes * distance
    shape = jnp.broadcast_shapes(queries.shape, keys.shape)
    slopes = slopes.reshape(spec.num_kv_heads, -1, *[1] * len(shape))
    bias = slopes * jnp.broadcast_to(keys, shape).astype(jnp.float32)
    return bias.astype(jnp.bfloat16).astype(jnp.float32) * spec.scale


def causal_mask(
    positions: Int[Array, " T"], window: int | None, chunk: int | None = None
) -> Bool[Array, "T T"]:
    """Which keys (columns) a query (row) sees: same sequence, not later, within the window and in
    the same block of `chunk` positions."""
    starts = jnp.concatenate([jnp.ones(1, bool), positions[1:] != positions[:-1] + 1])
    segment = jnp.cumsum(starts)
    index = jnp.arange(positions.shape[0])
    distance = index[:, None] - index[None, :]
    mask = (segment[:, None] == segment[None, :]) & (distance >= 0)
    if chunk is not None:
        mask &= positions[:, None] // chunk == positions[None, :] // chunk
    return mask if window is None else mask & (distance < window)


def softmax_with_sinks(
    scores: Float[Array, "K G T S"], sinks: Float[Array, " N"] | None, groups: int
) -> Float[Array, "K G T S"]:
    """Softmax over the keys; a sink takes its share of the weight and gives no value."""
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    sink = sinks.astype(jnp.float32).reshape(-1, groups, 1, 1)
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), sink)
    exp = jnp.exp(scores - top)
    return exp / (jnp.sum(exp, axis=-1, keepdims=True) + jnp.exp(sink - top))


def dense_attention_of_rows(count: int) -> Attend:
    """`dense_attention` for `count` sequences of equal length, laid end to end.

    Memory grows with the square of one sequence's length only: what training uses.
    """

    def attend(q, k, v, layer_cache, meta, spec, *, sinks=None, tap_pattern=None, cached=False):
        del tap_pattern, cached

        def one(q_row, k_row, v_row, positions):
            return dense_attention(q_row, k_row, v_row, layer_cache, positions, spec, sinks=sinks)[
                0
            ]

        rows = (x.reshape(count, -1, *x.shape[1:]) for x in (q, k, v, meta))
        return jax.vmap(one)(*rows).reshape(*q.shape[:2], -1), None

    return attend
