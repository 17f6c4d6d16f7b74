"""Attention of runs of tokens over paged keys for Hopper GPUs, in Pallas-Mosaic.

A tile is up to 128 queries: consecutive tokens of one row, each with the query heads that share a
kv head. A program is one tile and kv head: two warpgroups multiply, 64 queries each, over blocks of
keys that they share, and a third copies (`mosaic_online.py`). Values of more than 128 elements have
tiles of 64 queries and one warpgroup for them. XLA gathers the queries into tiles before, and takes
the tokens' results out of them afterwards.

Dimension key: T tokens of the step, X tiles, Q tokens of a tile, N query heads, K kv heads,
G = N / K, M queries of a tile (Q x G of them are used), H head, V value head, C keys of a block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.mosaic_online import (
    LANES,
    Plan,
    Ring,
    copy_blocks,
    empty,
    kernel_of,
    matrix,
    plgpu,
    ring_types,
    row_numbers,
    span_of,
    visit,
)
from pallas_kernels.online import LOG2_E, Pool, div
from pallas_kernels.prefill import cut_tiles
from pallas_kernels.rules import Rules, first_key
from pallas_kernels.tuning import MOSAIC_ROWS, Tuning, mosaic_sizes

COMPUTE, COMPUTE_WIDE = 2, 1
"""Warpgroups that multiply, and with values of more than 128 elements, whose results fill the
registers of one; the last warpgroup copies."""
REGISTERS_COPYING, REGISTERS_MULTIPLYING = 40, 232
"""Of each thread, where there are three warpgroups; with two, each has as many as a thread can."""


def mosaic_prefill(
    q: jax.Array,
    pool: Pool,
    query_starts: jax.Array,
    context_lens: jax.Array,
    sinks: jax.Array | None,
    out: tuple[jax.Array, jax.Array],
    rules: Rules,
    tuning: Tuning,
    *,
    at_least: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """`out` (`[T, N, V]` and log-sum-exp `[T, N]`) with the results of all rows of `at_least`
    tokens written in."""
    assert pool.v is not None
    (T, N, H), (_, page, K, V) = q.shape, pool.v.shape
    compute = COMPUTE if V <= LANES else COMPUTE_WIDE
    M, G = compute * MOSAIC_ROWS, N // K
    sizes = mosaic_sizes(q, pool, rules, tuning, compute=compute)
    plan = Plan(rules, sizes, page, q.dtype, group=G, compute=compute)
    tiles = cut_tiles(query_starts, context_lens, T, M // G, at_least)
    X, Q = tiles.rows.shape[0], M // G
    offsets = jnp.arange(Q, dtype=jnp.int32)
    tokens_XQ = tiles.tokens[:, None] + offsets
    used_XQ = offsets < tiles.counts[:, None]
    q_XKMH = q[jnp.minimum(tokens_XQ, T - 1)].reshape(X, Q, K, G, H)
    q_XKMH = jnp.swapaxes(q_XKMH, 1, 2).reshape(X, K, Q * G, H)
    q_XKMH = jnp.pad(q_XKMH, ((0, 0), (0, 0), (0, M - Q * G), (0, 0)))
    blocks, barriers = ring_types(plan, H)
    kernel = kernel_of(
        _attend_tile,
        plan,
        {"kv_head": K, "tile": X},
        (
            jax.ShapeDtypeStruct((X, K, M, H), q.dtype),
            jax.ShapeDtypeStruct((X, K, M), jnp.float32),
        ),
        [
            matrix((compute, MOSAIC_ROWS, H), H, q.dtype),
            matrix((compute, MOSAIC_ROWS, sizes.block), V, q.dtype),
            plgpu.SMEM((compute, MOSAIC_ROWS), jnp.float32),
            plgpu.Barrier(num_barriers=compute),
            plgpu.Barrier(num_arrivals=compute),
            *blocks,
            *barriers,
        ],
        interpret=interpret,
    )
    results, lse = kernel(q_XKMH, pool.k, pool.v, *tiles, pool.tables)
    at = jnp.where(used_XQ, tokens_XQ, T).reshape(-1)

    def by_token(x: jax.Array) -> jax.Array:
        """`[X, K, M, ...]` as `[X x Q, N, ...]`"""
        x = x[:, :, : Q * G].reshape(X, K, Q, G, *x.shape[3:])
        return jnp.swapaxes(x, 1, 2).reshape(X * Q, N, *x.shape[4:])

    results, lse = by_token(results[..., :V]), by_token(lse) / LOG2_E
    if sinks is not None:
        results = (results * jax.nn.sigmoid(lse - sinks)[..., None]).astype(results.dtype)
        lse = jnp.logaddexp(lse, sinks)
    return out[0].at[at].set(results, mode="drop"), out[1].at[at].set(lse, mode="drop")


def _attend_tile(
    plan: Plan,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    rows_ref: Any,
    _: Any,
    positions_ref: Any,
    counts_ref: Any,
    tables_ref: Any,
    out_ref: Any,
    lse_ref: Any,
    q_smem: Any,
    weights_smem: Any,
    lse_smem: Any,
    q_ready: Any,
    cleared: Any,
    *blocks_and_barriers: Any,
) -> None:
    """One tile and kv head; without a token it writes nothing."""
    ring, rules = Ring(*blocks_and_barriers), plan.rules
    kv_head, tile, warpgroup = map(lax.axis_index, ("kv_head", "tile", "warpgroup"))
    begin, count = positions_ref[tile], counts_ref[tile]
    span = span_of(first_key(begin, rules), begin + count, plan.sizes.block)

    @pl.when((count > 0) & (warpgroup == plan.compute))
    def _() -> None:
        if plan.compute > 1:
            plgpu.set_max_registers(REGISTERS_COPYING, action="decrease")
        pool = Pool(k_ref, v_ref, None, None, tables_ref)
        copy_blocks(plan, span, pool, rows_ref[tile], kv_head, ring)

    @pl.when((count > 0) & (warpgroup < plan.compute))
    def _() -> None:
        if plan.compute > 1:
            plgpu.set_max_registers(REGISTERS_MULTIPLYING, action="increase")
        q_here, lse_here = q_smem.at[warpgroup], lse_smem.at[warpgroup]
        mine = pl.ds(warpgroup * MOSAIC_ROWS, MOSAIC_ROWS)
        plgpu.copy_gmem_to_smem(q_ref.at[tile, kv_head, mine], q_here, q_ready.at[warpgroup])
        plgpu.barrier_wait(q_ready.at[warpgroup])

        query = warpgroup * MOSAIC_ROWS + row_numbers()
        position = jnp.minimum(begin + div(query, plan.group), span.stop - 1)
        earliest = first_key(position, rules)

        def sees(keys: jax.Array) -> jax.Array:
            first, last = (lax.broadcast_in_dim(x, keys.shape, [0]) for x in (earliest, position))
            return (keys >= first) & (keys <= last)

        def clear(clear_values: Any) -> None:
            pl.when(warpgroup == 0)(clear_values)
            plgpu.barrier_arrive(cleared)
            plgpu.barrier_wait(cleared)

        weights = weights_smem.at[warpgroup]
        turn = partial(visit, plan, span, q_here, ring, weights, sees, clear)
        top, total, parts = lax.fori_loop(0, span.num_blocks, turn, empty(plan))
        # The results take the place of the queries, whose last lanes stay where values are shorter.
        for lanes, part in zip(plan.value_lanes, parts, strict=True):
            values = part / lax.broadcast_in_dim(total, part.shape, [0])
            q_here[:, lanes] = values.astype(plan.dtype)
        lse_here[...] = top + jnp.log2(total)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_here, out_ref.at[tile, kv_head, mine])
        plgpu.copy_smem_to_gmem(lse_here, lse_ref.at[tile, kv_head, mine])
        plgpu.wait_smem_to_gmem(0)
