"""Attention of runs of tokens over paged keys for Hopper GPUs, in Pallas-Mosaic.

A tile is up to 128 queries: consecutive tokens of one row, each with the query heads that share a
kv head. A program is one tile and kv head: two warpgroups multiply, 64 queries each, over blocks of
keys that they share, and a third copies (`mosaic_online.py`). Values of more than 128 elements have
tiles of 64 queries and one warpgroup for them, and of more than 256 two, each with its half of the
lanes. XLA gathers the queries into tiles before, and takes
the tokens' results out of them afterwards.

Dimension key: T tokens of the step, X tiles, Q tokens of a tile, N query heads, K kv heads, G query
heads of a program, B groups of G, M queries of a tile (Q x G of them are used), H head, V value
head, C keys of a block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.mosaic_online import (
    Team,
    Worker,
    empty,
    kernel_of,
    row_numbers,
    share_registers,
    visit,
    with_lanes,
    write,
)
from pallas_kernels.mosaic_pages import (
    Plan,
    by_head,
    copy_blocks,
    in_groups,
    make_plan,
    matrix,
    num_pool_arrays,
    plgpu,
    pool_arrays,
    ring_of,
    ring_types,
    span_of,
)
from pallas_kernels.online import LOG2_E, Pool, div
from pallas_kernels.prefill import cut_tiles
from pallas_kernels.rules import Rules, first_key
from pallas_kernels.tuning import MOSAIC_ROWS, Tuning

TILES = 2
"""Of 64 queries, in a program."""


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
    T, _, H = q.shape
    plan = make_plan(q, pool, rules, tuning, tiles=TILES)
    M, G = plan.tiles * MOSAIC_ROWS, plan.group
    tiles = cut_tiles(query_starts, context_lens, T, M // G, at_least)
    X, Q = tiles.rows.shape[0], M // G
    offsets = jnp.arange(Q, dtype=jnp.int32)
    tokens_XQ = tiles.tokens[:, None] + offsets
    used_XQ = offsets < tiles.counts[:, None]
    q_XQBGH = in_groups(plan, q[jnp.minimum(tokens_XQ, T - 1).reshape(-1)]).reshape(X, Q, -1, G, H)
    B = q_XQBGH.shape[2]
    q_XBMH = jnp.swapaxes(q_XQBGH, 1, 2).reshape(X, B, Q * G, H)
    q_XBMH = jnp.pad(q_XBMH, ((0, 0), (0, 0), (0, M - Q * G), (0, 0)))
    blocks, barriers = ring_types(plan)
    kernel = kernel_of(
        _attend_tile,
        plan,
        {"head": B, "tile": X},
        (
            jax.ShapeDtypeStruct((X, B, M, H), q.dtype),
            jax.ShapeDtypeStruct((X, B, M), jnp.float32),
        ),
        [
            matrix(plan, (plan.tiles, MOSAIC_ROWS, H)),
            blocks,
            matrix(plan, (plan.compute, MOSAIC_ROWS, plan.sizes.block)),
            plgpu.SMEM((plan.tiles, MOSAIC_ROWS), jnp.float32),
            plgpu.Barrier(num_barriers=plan.tiles),
            plgpu.Barrier(num_arrivals=plan.compute),
            *barriers,
        ],
        interpret=interpret,
    )
    results, lse = kernel(q_XBMH, *tiles, *pool_arrays(pool))
    at = jnp.where(used_XQ, tokens_XQ, T).reshape(-1)

    def by_token(x: jax.Array) -> jax.Array:
        """`[X, B, M, ...]` as `[X x Q, N, ...]`"""
        x = x[:, :, : Q * G].reshape(X, B, Q, G, *x.shape[3:])
        return by_head(plan, jnp.swapaxes(x, 1, 2).reshape(X * Q, B, G, *x.shape[4:]))

    results, lse = by_token(results[..., : rules.value_dim]), by_token(lse) / LOG2_E
    if sinks is not None:
        results = (results * jax.nn.sigmoid(lse - sinks)[..., None]).astype(results.dtype)
        lse = jnp.logaddexp(lse, sinks)
    return out[0].at[at].set(results, mode="drop"), out[1].at[at].set(lse, mode="drop")


def _attend_tile(plan: Plan, q_ref: Any, *refs: Any) -> None:
    """One tile and group of heads; without a token it writes nothing."""
    rows_ref, _, positions_ref, counts_ref, *rest = refs
    pool, rest = rest[: num_pool_arrays(plan)], rest[num_pool_arrays(plan) :]
    out_ref, lse_ref, q_smem, memory, weights_smem, lse_smem, q_ready, together, *barriers = rest
    ring, rules = ring_of(plan, memory, barriers), plan.rules
    head, index, warpgroup = map(lax.axis_index, ("head", "tile", "warpgroup"))
    begin, count = positions_ref[index], counts_ref[index]
    span = span_of(first_key(begin, rules), begin + count, plan.sizes.block)
    team = Team(plan, warpgroup, together)

    @pl.when((count > 0) & (warpgroup == plan.compute))
    def _() -> None:
        share_registers(plan, copying=True)
        copy_blocks(plan, span, pool, rows_ref[index], head, ring)

    def attend(lanes: list[Any]) -> None:
        tile = warpgroup if plan.tiles > 1 else 0
        q_here, lse_here = q_smem.at[tile], lse_smem.at[tile]
        mine = pl.ds(tile * MOSAIC_ROWS, MOSAIC_ROWS)

        def bring() -> None:
            plgpu.copy_gmem_to_smem(q_ref.at[index, head, mine], q_here, q_ready.at[tile])
            plgpu.barrier_wait(q_ready.at[tile])

        bring() if plan.tiles > 1 else team.alone(bring)
        query = tile * MOSAIC_ROWS + row_numbers()
        position = jnp.minimum(begin + div(query, plan.group), span.stop - 1)
        earliest = first_key(position, rules)

        def sees(keys: jax.Array) -> jax.Array:
            first, last = (lax.broadcast_in_dim(x, keys.shape, [0]) for x in (earliest, position))
            return (keys >= first) & (keys <= last)

        worker = Worker(q_here, weights_smem.at[warpgroup], ring, sees, team, lanes)
        turn = partial(visit, plan, span, worker)
        seen = lax.fori_loop(0, span.num_blocks, turn, empty(lanes))
        # The results take the place of the queries, whose last lanes stay where values are shorter.
        write(
            seen,
            worker,
            q_here,
            lse_here,
            out_ref.at[index, head, mine],
            lse_ref.at[index, head, mine],
        )

    @pl.when((count > 0) & (warpgroup < plan.compute))
    def _() -> None:
        share_registers(plan, copying=False)
        with_lanes(plan, warpgroup, attend)
