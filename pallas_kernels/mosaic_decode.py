"""Attention of single tokens over paged keys for Hopper GPUs, in Pallas-Mosaic.

Split KV as in `decode.py`: a program for each token, kv head and split of its keys, and partial
results that are merged by log-sum-exp in fp32, in the order of the keys. A program is one
warpgroup that multiplies and one that copies (`mosaic_online.py`).

wgmma takes 64 rows: the query heads of a kv head fill some of them, and the rest are of no use.
That should do, as a decode waits for memory: in 16 bits, 64 rows cost 64 operations per byte of
keys and values, and an H200's data sheet has over 200 for each byte that it reads.

Dimension key: X tokens that are attended for, N query heads, K kv heads, G = N / K, Q = G in whole
tiles, M rows of wgmma, H head, V value head, S splits, C keys of a block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.decode import Singles
from pallas_kernels.mosaic_online import (
    TILE_ROWS,
    Plan,
    Ring,
    Span,
    copy_blocks,
    empty,
    kernel_of,
    matrix,
    plgpu,
    ring_types,
    span_of,
    visit,
)
from pallas_kernels.online import LOG2_E, MASKED, Pool
from pallas_kernels.rules import Rules, first_key
from pallas_kernels.tuning import MOSAIC_ROWS, Tuning, mosaic_sizes

COMPUTE, MEMORY = 0, 1
"""The two warpgroups."""


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
    assert pool.v is not None
    (_, N, H), (_, page, K, V), X = q.shape, pool.v.shape, singles.tokens.shape[0]
    G, sizes = N // K, mosaic_sizes(q, pool, rules, tuning)
    S = pl.cdiv(pool.tables.shape[1] * page, sizes.split_keys)
    Q = -(-G // TILE_ROWS) * TILE_ROWS
    plan = Plan(rules, sizes, page, q.dtype, group=G, compute=1)
    q_XKQH = q[singles.tokens].reshape(X, K, G, H)
    q_XKQH = jnp.pad(q_XKQH, ((0, 0), (0, 0), (0, Q - G), (0, 0)))
    blocks, barriers = ring_types(plan, H)
    kernel = kernel_of(
        _attend_split,
        plan,
        {"split": S, "kv_head": K, "token": X},
        (
            jax.ShapeDtypeStruct((X, S, K, Q, V), jnp.float32),
            jax.ShapeDtypeStruct((X, S, K, Q), jnp.float32),
        ),
        [
            matrix((MOSAIC_ROWS, H), H, q.dtype),
            # The results take the ring's place when all of it is used up.
            plgpu.RefUnion(blocks, plgpu.SMEM((MOSAIC_ROWS, V), jnp.float32)),
            matrix((MOSAIC_ROWS, sizes.block), V, q.dtype),
            plgpu.SMEM((MOSAIC_ROWS,), jnp.float32),
            plgpu.Barrier(),
            *barriers,
        ],
        interpret=interpret,
    )
    arrays = (singles.rows, singles.positions, pool.tables)
    parts, parts_lse = kernel(q_XKQH, pool.k, pool.v, *arrays)
    merged = _merge(parts[..., :G, :], parts_lse[..., :G], singles, sinks, plan)
    at = jnp.where(singles.positions >= 0, singles.tokens, q.shape[0])

    def written(before: jax.Array, x: jax.Array) -> jax.Array:
        x = x.reshape(X, *before.shape[1:]).astype(before.dtype)
        return before.at[at].set(x, mode="drop")

    return written(out[0], merged[0]), written(out[1], merged[1])


def _attend_split(
    plan: Plan,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    rows_ref: Any,
    positions_ref: Any,
    tables_ref: Any,
    out_ref: Any,
    lse_ref: Any,
    q_smem: Any,
    blocks: Any,
    weights_smem: Any,
    lse_smem: Any,
    q_ready: Any,
    *barriers: Any,
) -> None:
    """One token, kv head and split; without a key it writes nothing."""
    (k_smem, v_smem), out_smem = blocks
    ring = Ring(k_smem, v_smem, *barriers)
    split, kv_head, index = map(lax.axis_index, ("split", "kv_head", "token"))
    warpgroup = lax.axis_index("warpgroup")
    span = _span(positions_ref[index], split, plan)

    @pl.when((span.num_blocks > 0) & (warpgroup == MEMORY))
    def _() -> None:
        pool = Pool(k_ref, v_ref, None, None, tables_ref)
        copy_blocks(plan, span, pool, rows_ref[index], kv_head, ring)

    @pl.when((span.num_blocks > 0) & (warpgroup == COMPUTE))
    def _() -> None:
        Q = q_ref.shape[2]
        plgpu.copy_gmem_to_smem(q_ref.at[index, kv_head], q_smem.at[pl.ds(0, Q)], q_ready)
        plgpu.barrier_wait(q_ready)

        def sees(keys: jax.Array) -> jax.Array:
            return (keys >= span.first) & (keys < span.stop)

        turn = partial(
            visit, plan, span, q_smem, ring, weights_smem, sees, lambda clear_values: clear_values()
        )
        top, total, parts = lax.fori_loop(0, span.num_blocks, turn, empty(plan))
        for lanes, part in zip(plan.value_lanes, parts, strict=True):
            out_smem[:, lanes] = part / lax.broadcast_in_dim(total, part.shape, [0])
        lse_smem[...] = top + jnp.log2(total)
        plgpu.commit_smem()
        at = (index, split, kv_head)
        plgpu.copy_smem_to_gmem(out_smem.at[pl.ds(0, Q)], out_ref.at[at])
        plgpu.copy_smem_to_gmem(lse_smem.at[pl.ds(0, Q)], lse_ref.at[at])
        plgpu.wait_smem_to_gmem(0)


def _span(position: jax.Array, split: jax.Array, plan: Plan) -> Span:
    split_keys = plan.sizes.split_keys
    first = jnp.maximum(first_key(position, plan.rules), split * split_keys)
    stop = jnp.minimum(position + 1, (split + 1) * split_keys)
    return span_of(first, stop, plan.sizes.block)


def _merge(
    parts: jax.Array, lse: jax.Array, singles: Singles, sinks: jax.Array | None, plan: Plan
) -> tuple[jax.Array, jax.Array]:
    """Results `[X, K, G, V]` and log-sum-exp `[X, K, G]` from those of the splits, in fp32."""
    S, split_keys = parts.shape[1], plan.sizes.split_keys
    positions = singles.positions[:, None]
    splits = jnp.arange(S)[None, :]
    used = (splits >= first_key(positions, plan.rules) // split_keys) & (
        splits * split_keys <= positions
    )
    used = used.reshape(*used.shape, 1, 1)
    lse = jnp.where(used, lse, MASKED)
    top = jnp.max(lse, axis=1)
    sink = None if sinks is None else sinks.reshape(top.shape[1:]) * LOG2_E
    if sink is not None:
        top = jnp.maximum(top, sink)
    weights = jnp.where(used, jnp.exp2(lse - top[:, None]), 0.0)
    total = jnp.sum(weights, axis=1)
    if sink is not None:
        total = total + jnp.exp2(sink - top)
    out = jnp.sum(
        jnp.where(used, weights, 0.0)[..., None] * jnp.where(used[..., None], parts, 0.0), axis=1
    )
    return out / total[..., None], (top + jnp.log2(total)) / LOG2_E
