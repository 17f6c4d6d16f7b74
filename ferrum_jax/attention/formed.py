"""Paged attention that forms its weights, for those who read or change them (the site `pattern`).

Slower than the online softmax of `paged.py`, and only run where `pattern` is tapped: each token
gathers all pages of its sequence, once for the weights and once for the values.

Dimension key: T tokens, R rows (sequences), B pages a sequence, S = B x page size key positions,
N query heads, K kv heads, G = N / K, H head, V value head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.attention.dense import MASKED, alibi, soft_capped, softmax_with_sinks
from ferrum_jax.attention.quantize import from_stored
from ferrum_jax.types import AttentionConfig, LayerCache

TOKENS_AT_ONCE = 8
"""Tokens whose keys are gathered together; bounds the memory."""


def attend_forming_weights(
    q_TNH: Float[Array, "T N H"],
    cache: LayerCache,
    spec: AttentionConfig,
    *,
    tables_RB: Int[Array, "R B"],
    rows_T: Int[Array, " T"],
    positions_T: Int[Array, " T"],
    sinks: Float[Array, " N"] | None,
    tap_pattern: Callable[[Array], Array],
) -> Float[Array, "T N V"]:
    """Attention of each token over what its sequence has cached, itself included.

    `tap_pattern` gets the weights `[T, N, S]` in fp32, S being the key's position in its own
    sequence; their product with the values is formed from what it returns.
    """
    run = partial(jax.lax.map, batch_size=min(TOKENS_AT_ONCE, q_TNH.shape[0]))

    def weights(token: tuple[Array, Array, Array]) -> Float[Array, "N S"]:
        q_NH, row, position = token
        return _weights(q_NH, cache, spec, tables_RB[row], position, sinks)

    def values(token: tuple[Array, Array, Array]) -> Float[Array, "N V"]:
        weights_NS, row, position = token
        return _values(weights_NS, cache, spec, tables_RB[row], position)

    pattern_TNS = tap_pattern(run(weights, (q_TNH, rows_T, positions_T)))
    return run(values, (pattern_TNS, rows_T, positions_T)).astype(q_TNH.dtype)


def _weights(
    q_NH: Array,
    cache: LayerCache,
    spec: AttentionConfig,
    pages_B: Array,
    position: Array,
    sinks: Array | None,
) -> Float[Array, "N S"]:
    """One token's softmax over all key positions; those that it does not see have weight 0."""
    k_SKH = _gather(cache.k_pages, cache.k_scales, pages_B)
    groups = spec.num_heads // spec.num_kv_heads
    q_KGH = q_NH.reshape(spec.num_kv_heads, groups, spec.head_dim).astype(jnp.float32)
    scores = soft_capped(jnp.einsum("KGH,SKH->KGS", q_KGH, k_SKH) * spec.scale, spec.soft_cap)
    keys_S = jnp.arange(k_SKH.shape[0])
    if spec.alibi_slopes is not None:
        scores += alibi(spec, position[None], keys_S)
    distance_S = position - keys_S
    seen_S = distance_S >= 0
    if spec.window is not None:
        seen_S &= distance_S < spec.window
    if spec.chunk is not None:
        seen_S &= keys_S // spec.chunk == position // spec.chunk
    scores = jnp.where(seen_S, scores, MASKED)[:, :, None]
    return softmax_with_sinks(scores, sinks, groups).reshape(spec.num_heads, -1)


def _values(
    weights_NS: Array, cache: LayerCache, spec: AttentionConfig, pages_B: Array, position: Array
) -> Float[Array, "N V"]:
    if cache.v_pages is None:
        v_SKH = _gather(cache.k_pages, cache.k_scales, pages_B)[..., : spec.value_size]
    else:
        v_SKH = _gather(cache.v_pages, cache.v_scales, pages_B)
    # A page's unused tail may hold anything, nan included; 0 x nan would poison the sum.
    written_S = jnp.arange(v_SKH.shape[0]) <= position
    v_SKH = jnp.where(written_S[:, None, None], v_SKH, 0)
    weights_KGS = weights_NS.reshape(spec.num_kv_heads, -1, v_SKH.shape[0])
    return jnp.einsum("KGS,SKH->KGH", weights_KGS, v_SKH).reshape(spec.num_heads, -1)


def _gather(pages: Array, scales: Array | None, pages_B: Array) -> Float[Array, "S K H"]:
    """A sequence's keys or values by position, in fp32."""
    x = from_stored(pages[pages_B], jnp.float32).astype(jnp.float32)
    if scales is not None:
        x = x * scales[pages_B][..., None]
    return x.reshape(-1, *x.shape[2:])
