"""Gradients of paged attention, in plain jnp: weights are computed anew, block by block.

From the result's log-sum-exp each weight follows without a second pass over the keys (Dao et al.
2022), so memory grows with the tokens and the pool, not with their product. It is no GPU kernel:
XLA compiles it, for every backend.

Dimension key: T tokens, Q tokens of a tile, C keys of a block, B pages of a row, N query heads,
K kv heads, G = N / K, H head, V value head.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.online import EXACT, Pool
from pallas_kernels.prefill import cut_tiles
from pallas_kernels.reference import biased, numbers
from pallas_kernels.rules import Rules, first_key

TILE_TOKENS = 32
BLOCK_KEYS = 256


class _Saved(NamedTuple):
    """What every tile reads: the forward pass and what came back from above, in fp32 or fp64."""

    q_TKGH: jax.Array
    pool: Pool
    lse_TKG: jax.Array
    d_out_TKGV: jax.Array
    delta_TKG: jax.Array
    """Sum of the results times their gradients, less the gradient of the log-sum-exp."""
    slopes: jax.Array | None


def attend_backward(
    q: jax.Array,
    pool: Pool,
    query_starts: jax.Array,
    context_lens: jax.Array,
    sinks: jax.Array | None,
    slopes: jax.Array | None,
    results: tuple[jax.Array, jax.Array],
    gradients: tuple[jax.Array, jax.Array],
    rules: Rules,
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Gradients of q, k_pages, v_pages and sinks, in fp32 (fp64 where q is fp64).

    With quantised pages, those of what the pages are worth.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    T, K = q.shape[0], pool.k.shape[2]
    out, lse = (x.astype(dtype) for x in results)
    d_out, d_lse = (x.astype(dtype) for x in gradients)
    d_lse = jnp.where(jnp.isfinite(lse), d_lse, 0)
    delta = jnp.sum(out * d_out, axis=-1) - d_lse
    by_head = partial(_by_kv_head, num_kv_heads=K)
    saved = _Saved(
        by_head(q.astype(dtype)), pool, by_head(lse), by_head(d_out), by_head(delta), slopes
    )
    tiles = cut_tiles(query_starts, context_lens, T, min(TILE_TOKENS, T), at_least=1)
    pages = (pool.k.shape, None if pool.v is None else pool.v.shape)
    d_pages = jax.tree.map(lambda s: jnp.zeros(s, dtype), pages, is_leaf=_is_shape)

    def tile(carry: tuple, at: Any) -> tuple[tuple, None]:
        d_q, *d_pages = carry
        tokens, d_tile, d_pages = _tile(saved, at, tuple(d_pages), rules, min(TILE_TOKENS, T))
        return (d_q.at[tokens].add(d_tile), *d_pages), None

    (d_q, d_k, d_v), _ = lax.scan(tile, (jnp.zeros_like(saved.q_TKGH), *d_pages), tiles)
    d_sinks = None
    if sinks is not None:
        share = jnp.where(jnp.isfinite(lse), jnp.exp(sinks.astype(dtype) - lse), 0)
        d_sinks = -jnp.sum(share * delta, axis=0)
    return d_q.reshape(q.shape), d_k, d_v, d_sinks


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple) and all(isinstance(size, int) for size in x)


def _by_kv_head(x: jax.Array, num_kv_heads: int) -> jax.Array:
    """`[T, N, ...]` as `[T, K, G, ...]`."""
    return x.reshape(x.shape[0], num_kv_heads, -1, *x.shape[2:])


def _tile(
    saved: _Saved, tile: Any, d_pages: tuple, rules: Rules, size: int
) -> tuple[jax.Array, jax.Array, tuple]:
    """A tile's tokens, the gradient of its queries, and the pages' with its share added."""
    pool, page = saved.pool, saved.pool.k.shape[1]
    offsets = jnp.arange(size, dtype=jnp.int32)
    tokens = jnp.minimum(tile.tokens + offsets, saved.q_TKGH.shape[0] - 1)
    valid_Q = offsets < tile.counts
    positions_Q = tile.positions + offsets
    q, lse, d_out, delta = (
        x[tokens] for x in (saved.q_TKGH, saved.lse_TKG, saved.d_out_TKGV, saved.delta_TKG)
    )
    pages_per_block = max(1, BLOCK_KEYS // page)
    table = pool.tables[tile.rows]
    table = jnp.pad(table, (0, -table.shape[0] % pages_per_block))
    block = pages_per_block * page
    first_seen = first_key(tile.positions, rules)

    def visit(index: jax.Array, carry: tuple) -> tuple:
        d_q, d_k_pages, d_v_pages = carry
        ids = lax.dynamic_slice_in_dim(table, index * pages_per_block, pages_per_block)
        keys = index * block + jnp.arange(block, dtype=jnp.int32)
        inside = (keys >= first_seen) & (keys < tile.positions + tile.counts)
        # What no query sees is page 0 with nothing to add: its entry may be no page at all.
        ids = jnp.where(jnp.any(inside.reshape(-1, page), axis=1), ids, 0)

        def gather(array: jax.Array, scales: jax.Array | None) -> jax.Array:
            x = numbers(array[ids], None if scales is None else scales[ids], q.dtype)
            return jnp.where(inside[:, None, None], x.reshape(block, *x.shape[2:]), 0)

        def scatter(d_array: jax.Array, d: jax.Array) -> jax.Array:
            return d_array.at[ids].add(d.reshape(pages_per_block, page, *d.shape[1:]))

        k = gather(pool.k, pool.k_scales)
        v = k[..., : rules.value_dim] if pool.v is None else gather(pool.v, pool.v_scales)
        scaled = rules.scale * jnp.einsum("QKGH,CKH->QKGC", q, k, precision=EXACT)
        shape = scaled.shape
        scores = biased(scaled.reshape(size, -1, block), keys, positions_Q, saved.slopes, rules)
        first_Q = first_key(positions_Q, rules)
        seen = (keys >= first_Q[:, None]) & (keys <= positions_Q[:, None]) & valid_Q[:, None]
        seen = seen[:, None, None, :]
        difference = scores.reshape(shape) - lse[..., None]
        weights = jnp.where(seen, jnp.exp(jnp.where(seen, difference, 0)), 0)
        d_v = jnp.einsum("QKGC,QKGV->CKV", weights, d_out, precision=EXACT)
        d_weights = jnp.einsum("QKGV,CKV->QKGC", d_out, v, precision=EXACT)
        d_scores = weights * (d_weights - delta[..., None]) * rules.scale
        if rules.soft_cap is not None:
            d_scores *= 1 - jnp.tanh(scaled / rules.soft_cap) ** 2
        d_q += jnp.einsum("QKGC,CKH->QKGH", d_scores, k, precision=EXACT)
        d_k = jnp.einsum("QKGC,QKGH->CKH", d_scores, q, precision=EXACT)
        if d_v_pages is None:
            d_k = d_k.at[..., : rules.value_dim].add(d_v)
        else:
            d_v_pages = scatter(d_v_pages, d_v)
        return d_q, scatter(d_k_pages, d_k), d_v_pages

    first = first_seen // block
    last = -(-(tile.positions + tile.counts) // block)
    last = jnp.where(tile.counts > 0, last, first)
    d_q, d_k, d_v = lax.fori_loop(first, last, visit, (jnp.zeros_like(q), *d_pages))
    return tokens, jnp.where(valid_Q[:, None, None, None], d_q, 0), (d_k, d_v)
