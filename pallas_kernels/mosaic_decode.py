"""Attention of single tokens over paged keys for Hopper GPUs, in Pallas-Mosaic.

Split KV as in `decode.py`: a program for each token, kv head and split of its keys, and partial
results that are merged in the order of the keys (`mosaic_merge.py`). A program is one warpgroup
that multiplies and one that copies (`mosaic_online.py`); for values of more than 256 elements two
multiply, each with its half of the lanes.

wgmma takes 64 rows: the query heads of a kv head fill some of them, and the rest are of no use.
That should do, as a decode waits for memory: in 16 bits, 64 rows cost 64 operations per byte of
keys and values, and an H200's data sheet has over 200 for each byte that it reads.

Dimension key: X tokens that are attended for, N query heads, K kv heads, G query heads of a
program, B groups of G, Q = G in whole tiles, M rows of wgmma, H head, V value head, S splits,
C keys of a block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.decode import Singles
from pallas_kernels.mosaic_merge import merge_splits
from pallas_kernels.mosaic_online import (
    Team,
    Worker,
    empty,
    kernel_of,
    share_registers,
    visit,
    with_lanes,
    write,
)
from pallas_kernels.mosaic_pages import (
    TILE_ROWS,
    Plan,
    Span,
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
from pallas_kernels.online import Pool
from pallas_kernels.rules import Rules, first_key
from pallas_kernels.tuning import MOSAIC_ROWS, Tuning


def mosaic_decode(
    q: jax.Array,
    pool: Pool,
    singles: Singles,
    sinks: jax.Array | None,
    out: tuple[jax.Array, jax.Array],
    rules: Rules,
    tuning: Tuning,
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """`out` (`[T, N, V]` and log-sum-exp `[T, N]`) with the results of the tokens written in."""
    plan, H, V = make_plan(q, pool, rules, tuning), q.shape[2], rules.value_dim
    sizes, q_XBGH = plan.sizes, in_groups(plan, q[singles.tokens])
    X, B, G, _ = q_XBGH.shape
    S = pl.cdiv(pool.tables.shape[1] * plan.page, sizes.split_keys)
    Q = -(-G // TILE_ROWS) * TILE_ROWS
    q_XBQH = jnp.pad(q_XBGH, ((0, 0), (0, 0), (0, Q - G), (0, 0)))
    blocks, barriers = ring_types(plan)
    kernel = kernel_of(
        _attend_split,
        plan,
        {"split": S, "head": B, "token": X},
        (
            jax.ShapeDtypeStruct((X, S, B, Q, V), jnp.float32),
            jax.ShapeDtypeStruct((X, S, B, Q), jnp.float32),
        ),
        [
            matrix(plan, (MOSAIC_ROWS, H)),
            # The results take the ring's place when all of it is used up.
            plgpu.RefUnion(blocks, plgpu.SMEM((MOSAIC_ROWS, V), jnp.float32)),
            matrix(plan, (plan.compute, MOSAIC_ROWS, sizes.block)),
            plgpu.SMEM((MOSAIC_ROWS,), jnp.float32),
            plgpu.Barrier(),
            plgpu.Barrier(num_arrivals=plan.compute),
            *barriers,
        ],
        interpret=interpret,
    )
    parts, parts_lse = kernel(q_XBQH, singles.rows, singles.positions, *pool_arrays(pool))
    if sinks is not None:
        sinks = in_groups(plan, sinks[None])[0]
    merged = merge_splits(plan, parts, parts_lse, singles.positions, sinks, interpret=interpret)
    at = jnp.where(singles.positions >= 0, singles.tokens, q.shape[0])

    def written(before: jax.Array, x: jax.Array) -> jax.Array:
        return before.at[at].set(by_head(plan, x).astype(before.dtype), mode="drop")

    return written(out[0], merged[0]), written(out[1], merged[1])


def _attend_split(plan: Plan, q_ref: Any, rows_ref: Any, positions_ref: Any, *refs: Any) -> None:
    """One token, group of heads and split; without a key it writes nothing."""
    pool, rest = refs[: num_pool_arrays(plan)], refs[num_pool_arrays(plan) :]
    out_ref, lse_ref, q_smem, union, weights_smem, lse_smem, q_ready, together, *barriers = rest
    memory, out_smem = union
    ring = ring_of(plan, memory, barriers)
    split, head, index = map(lax.axis_index, ("split", "head", "token"))
    warpgroup = lax.axis_index("warpgroup")
    span = _span(positions_ref[index], split, plan)
    team = Team(plan, warpgroup, together)

    @pl.when((span.num_blocks > 0) & (warpgroup == plan.compute))
    def _() -> None:
        share_registers(plan, copying=True)
        copy_blocks(plan, span, pool, rows_ref[index], head, ring)

    def attend(lanes: list[Any]) -> None:
        sees = partial(_sees, span)
        worker = Worker(q_smem, weights_smem.at[warpgroup], ring, sees, team, lanes)
        turn = partial(visit, plan, span, worker)
        seen = lax.fori_loop(0, span.num_blocks, turn, empty(lanes))
        at = (index, split, head)
        write(seen, worker, out_smem, lse_smem, out_ref.at[at], lse_ref.at[at])

    @pl.when((span.num_blocks > 0) & (warpgroup < plan.compute))
    def _() -> None:
        share_registers(plan, copying=False)
        team.alone(partial(_bring, q_ref.at[index, head], q_smem, q_ready))
        with_lanes(plan, warpgroup, attend)


def _bring(q_ref: Any, q_smem: Any, ready: Any) -> None:
    """The queries of a program, into the first rows of their place."""
    plgpu.copy_gmem_to_smem(q_ref, q_smem.at[pl.ds(0, q_ref.shape[0])], ready)
    plgpu.barrier_wait(ready)


def _sees(span: Span, keys: jax.Array) -> jax.Array:
    return (keys >= span.first) & (keys < span.stop)


def _span(position: jax.Array, split: jax.Array, plan: Plan) -> Span:
    split_keys = plan.sizes.split_keys
    first = jnp.maximum(first_key(position, plan.rules), split * split_keys)
    stop = jnp.minimum(position + 1, (split + 1) * split_keys)
    return span_of(first, stop, plan.sizes.block)
