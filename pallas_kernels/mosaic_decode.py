"""Attention of single tokens over paged keys for Hopper GPUs, in Pallas-Mosaic.

Split KV as in `decode.py`: a program for each token, kv head and split of its keys, and partial
results that are merged by log-sum-exp in fp32, in the order of the keys. Each program has two
warpgroups. One copies pages into a ring of blocks in shared memory (TMA); the other multiplies
(wgmma) and keeps the online softmax. Barriers say when a block is there and when it is used up.

wgmma takes 64 rows: the query heads of a kv head fill some of them, and the rest are of no use.
That should do, as a decode waits for memory: in 16 bits, 64 rows cost 64 operations per byte of
keys and values, and an H200's data sheet has over 200 for each byte that it reads.

Dimension key: X tokens that are attended for, N query heads, K kv heads, G = N / K, Q = G in whole
tiles, M rows of wgmma, H head, V value head, S splits, C keys of a block.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from pallas_kernels.decode import Singles
from pallas_kernels.online import LOG2_E, MASKED, Pool, div, rem
from pallas_kernels.rules import Rules, first_key
from pallas_kernels.tuning import MosaicSizes, Tuning, mosaic_sizes

plgpu: Any = mosaic_gpu
"""Its names and signatures differ from jax to jax."""
ROWS = 64
"""Rows that one wgmma takes."""
LANES = 128
"""Elements of a value that one product takes: more of them would not fit the registers."""
COMPUTE, MEMORY = 0, 1
"""The two warpgroups."""
TILE_ROWS = 8
"""Rows of a tile, in which matrices lie in shared memory for wgmma."""
SWIZZLES = (128, 64, 32)
"""Bytes of a swizzle, and of a tile's rows."""


class _Plan(NamedTuple):
    rules: Rules
    sizes: MosaicSizes
    page: int
    dtype: Any

    @property
    def piece(self) -> int:
        """Keys that one copy brings."""
        return min(self.page, self.sizes.block)

    @property
    def value_lanes(self) -> list[Any]:
        """The lanes of the values that one wgmma takes."""
        V = self.rules.value_dim
        return [pl.ds(start, min(LANES, V - start)) for start in range(0, V, LANES)]


class _Seen(NamedTuple):
    """The state of the online softmax."""

    top: jax.Array
    """`[M]`: the largest score, in log2"""
    total: jax.Array
    """`[M]`: the sum of the weights over 2^top"""
    parts: tuple[jax.Array, ...]
    """the weighted sum of the values, lanes beside lanes"""


class _Span(NamedTuple):
    """The keys of a program."""

    first: jax.Array
    stop: jax.Array
    first_block: jax.Array
    num_blocks: jax.Array


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
    sizes = mosaic_sizes(q, pool, rules, tuning)
    S, C = pl.cdiv(pool.tables.shape[1] * page, sizes.split_keys), sizes.block
    Q = -(-(N // K) // TILE_ROWS) * TILE_ROWS
    plan = _Plan(rules, sizes, page, q.dtype)
    q_XKQH = q[singles.tokens].reshape(X, K, N // K, H)
    q_XKQH = jnp.pad(q_XKQH, ((0, 0), (0, 0), (0, Q - N // K), (0, 0)))
    matrix = partial(_matrix, dtype=q.dtype)
    kernel = plgpu.kernel(
        partial(_attend_split, plan),
        out_type=(
            jax.ShapeDtypeStruct((X, S, K, Q, V), jnp.float32),
            jax.ShapeDtypeStruct((X, S, K, Q), jnp.float32),
        ),
        scratch_types=[
            matrix((ROWS, H), H),
            plgpu.RefUnion(
                [
                    matrix((sizes.num_stages, C, H), H),
                    matrix((sizes.num_stages, C, V), V),
                ],
                plgpu.SMEM((ROWS, V), jnp.float32),
            ),
            matrix((ROWS, C), V),
            plgpu.SMEM((ROWS,), jnp.float32),
            plgpu.Barrier(),
            plgpu.Barrier(num_arrivals=2 * (C // plan.piece), num_barriers=sizes.num_stages),
            plgpu.Barrier(num_barriers=sizes.num_stages),
        ],
        grid=(S, K, X),
        grid_names=("split", "kv_head", "token"),
        num_threads=2,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
    )
    arrays = (singles.rows, singles.positions, pool.tables)
    parts, parts_lse = kernel(q_XKQH, pool.k, pool.v, *arrays)
    merged = _merge(parts[..., : N // K, :], parts_lse[..., : N // K], singles, sinks, plan)
    at = jnp.where(singles.positions >= 0, singles.tokens, q.shape[0])

    def written(before: jax.Array, x: jax.Array) -> jax.Array:
        x = x.reshape(X, *before.shape[1:]).astype(before.dtype)
        return before.at[at].set(x, mode="drop")

    return written(out[0], merged[0]), written(out[1], merged[1])


def _matrix(shape: tuple[int, ...], width: int, dtype: Any) -> Any:
    """Shared memory for an operand of wgmma: in tiles with the widest swizzle that `width` takes.

    Both operands of a product need the same one.
    """
    swizzle = next(size for size in SWIZZLES if width * 2 % size == 0)
    tiling = plgpu.TilingTransform((TILE_ROWS, swizzle // 2))
    return plgpu.SMEM(shape, dtype, transforms=(tiling, plgpu.SwizzleTransform(swizzle)))


def _attend_split(
    plan: _Plan,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    rows_ref: Any,
    positions_ref: Any,
    tables_ref: Any,
    out_ref: Any,
    lse_ref: Any,
    q_smem: Any,
    ring: Any,
    weights_smem: Any,
    lse_smem: Any,
    q_ready: Any,
    ready: Any,
    used: Any,
) -> None:
    """One token, kv head and split; without a key it writes nothing."""
    (k_smem, v_smem), out_smem = ring
    split, kv_head, index = map(lax.axis_index, ("split", "kv_head", "token"))
    warpgroup = lax.axis_index("warpgroup")
    span = _span(positions_ref[index], split, plan)

    @pl.when((span.num_blocks > 0) & (warpgroup == MEMORY))
    def _() -> None:
        pages = div(span.first, plan.page), div(span.stop - 1, plan.page)
        at = tables_ref.at[rows_ref[index]], pages, kv_head
        _copy_blocks(plan, span, k_ref, v_ref, at, (k_smem, v_smem), ready, used)

    @pl.when((span.num_blocks > 0) & (warpgroup == COMPUTE))
    def _() -> None:
        Q = q_ref.shape[2]
        plgpu.copy_gmem_to_smem(q_ref.at[index, kv_head], q_smem.at[pl.ds(0, Q)], q_ready)
        plgpu.barrier_wait(q_ready)
        visit = partial(_visit, plan, span, q_smem, (k_smem, v_smem), weights_smem, (ready, used))
        top, total, parts = lax.fori_loop(0, span.num_blocks, visit, _empty(plan))
        for lanes, part in zip(plan.value_lanes, parts, strict=True):
            out_smem[:, lanes] = part / lax.broadcast_in_dim(total, part.shape, [0])
        lse_smem[...] = top + jnp.log2(total)
        plgpu.commit_smem()
        at = (index, split, kv_head)
        plgpu.copy_smem_to_gmem(out_smem.at[pl.ds(0, Q)], out_ref.at[at])
        plgpu.copy_smem_to_gmem(lse_smem.at[pl.ds(0, Q)], lse_ref.at[at])
        plgpu.wait_smem_to_gmem(0)


def _span(position: jax.Array, split: jax.Array, plan: _Plan) -> _Span:
    C, split_keys = plan.sizes.block, plan.sizes.split_keys
    first = jnp.maximum(first_key(position, plan.rules), split * split_keys)
    stop = jnp.minimum(position + 1, (split + 1) * split_keys)
    first_block = div(first, C)
    num_blocks = jnp.where(first < stop, div(stop + (C - 1), C) - first_block, 0)
    return _Span(first, stop, first_block, num_blocks)


def _copy_blocks(
    plan: _Plan,
    span: _Span,
    k_ref: Any,
    v_ref: Any,
    at: tuple[Any, tuple[jax.Array, jax.Array], jax.Array],
    blocks: tuple[Any, Any],
    ready: Any,
    used: Any,
) -> None:
    """All blocks of the span, each page for itself; a page that holds no key of it is not read."""
    (table, (first_page, last_page), kv_head), stages = at, plan.sizes.num_stages
    piece = plan.piece

    @pl.loop(0, span.num_blocks)
    def _(turn: jax.Array) -> None:
        slot = rem(turn, stages)

        @pl.when(turn >= stages)
        def _() -> None:
            plgpu.barrier_wait(used.at[slot])

        for begin in range(0, plan.sizes.block, piece):
            key = (span.first_block + turn) * plan.sizes.block + begin
            page = table[jnp.clip(div(key, plan.page), first_page, last_page)]
            slots = pl.ds(rem(key, plan.page), piece)
            for source, block in zip((k_ref, v_ref), blocks, strict=True):
                plgpu.copy_gmem_to_smem(
                    source.at[page, slots, kv_head],
                    block.at[slot, pl.ds(begin, piece)],
                    ready.at[slot],
                )

    # So that every arrival is waited for, as the interpreter asks.
    for slot in range(stages):

        @pl.when(slot < span.num_blocks)
        def _(slot: int = slot) -> None:
            plgpu.barrier_wait(used.at[slot])


def _empty(plan: _Plan) -> _Seen:
    """No key seen yet."""
    of_row = plgpu.Layout.WGMMA.reduce(1)
    top = plgpu.layout_cast(jnp.full((ROWS,), MASKED, jnp.float32), of_row)
    total = plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), of_row)
    zeros = [jnp.zeros((ROWS, lanes.size), jnp.float32) for lanes in plan.value_lanes]
    return _Seen(top, total, tuple(plgpu.layout_cast(x, plgpu.Layout.WGMMA) for x in zeros))


def _visit(
    plan: _Plan,
    span: _Span,
    q_smem: Any,
    blocks: tuple[Any, Any],
    weights_smem: Any,
    barriers: tuple[Any, Any],
    turn: jax.Array,
    seen: _Seen,
) -> _Seen:
    """The softmax with one more block of keys."""
    (k_smem, v_smem), (ready, used) = blocks, barriers
    C, slot = plan.sizes.block, rem(turn, plan.sizes.num_stages)
    begin = (span.first_block + turn) * C
    plgpu.barrier_wait(ready.at[slot])

    def score(acc: Any) -> jax.Array:
        plgpu.wgmma(acc, q_smem, k_smem.at[slot].transpose((1, 0)))
        return acc[...]

    scores = pl.run_scoped(score, plgpu.WGMMAAccumulatorRef((ROWS, C), jnp.float32))
    if plan.rules.soft_cap is None:
        scores = scores * (plan.rules.scale * LOG2_E)
    else:
        scores = jnp.tanh(scores * (plan.rules.scale / plan.rules.soft_cap))
        scores = scores * (plan.rules.soft_cap * LOG2_E)
    keys = begin + plgpu.broadcasted_iota(jnp.int32, scores.shape, 1, layout=plgpu.Layout.WGMMA)
    inside = (keys >= span.first) & (keys < span.stop)
    scores = jnp.where(inside, scores, MASKED)
    top = jnp.maximum(seen.top, scores.max(axis=1))
    shrink = jnp.exp2(seen.top - top)
    weights = jnp.exp2(scores - lax.broadcast_in_dim(top, scores.shape, [0]))
    total = seen.total * shrink + weights.sum(axis=1)
    weights_smem[...] = weights.astype(plan.dtype)

    @pl.when((begin < span.first) | (begin + C > span.stop))
    def _() -> None:
        # What no query sees may be anything, nan included, and 0 x nan would be nan.
        values = v_smem.at[slot]
        shape = (C, plan.rules.value_dim)
        keys = begin + plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=plgpu.Layout.WGMMA)
        inside = (keys >= span.first) & (keys < span.stop)
        loaded = plgpu.load(values, layout=plgpu.Layout.WGMMA)
        values[...] = jnp.where(inside, loaded, jnp.zeros_like(loaded))

    plgpu.commit_smem()

    parts = []
    for lanes, part in zip(plan.value_lanes, seen.parts, strict=True):

        def weigh(acc: Any, lanes: Any = lanes) -> jax.Array:
            plgpu.wgmma(acc, weights_smem, v_smem.at[slot, :, lanes])
            return acc[...]

        added = pl.run_scoped(weigh, plgpu.WGMMAAccumulatorRef(part.shape, jnp.float32))
        parts.append(part * lax.broadcast_in_dim(shrink, part.shape, [0]) + added)
    plgpu.barrier_arrive(used.at[slot])
    return _Seen(top, total, tuple(parts))


def _merge(
    parts: jax.Array, lse: jax.Array, singles: Singles, sinks: jax.Array | None, plan: _Plan
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
