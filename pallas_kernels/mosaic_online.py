"""The online softmax over blocks of paged keys on a Hopper GPU, which both Mosaic kernels run.

The last warpgroup of a program copies pages into a ring of blocks in shared memory (TMA). The
others multiply (wgmma), 64 queries each, and keep the softmax. Barriers say when a block is there
and when it is used up. Scores are in units of log2.

Dimension key: M queries of a warpgroup, C keys of a block, H head, V value head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from pallas_kernels.online import LOG2_E, MASKED, Pool, div, rem
from pallas_kernels.rules import Rules
from pallas_kernels.tuning import MOSAIC_ROWS, MosaicSizes

plgpu: Any = mosaic_gpu
"""Its names and signatures differ from jax to jax."""
LANES, MANY_LANES = 128, 64
"""Elements of a value that one product takes, and for values of more than the first: all lanes are
in registers, and so is what a product adds to some of them."""
TILE_ROWS = 8
"""Rows of a tile, in which matrices lie in shared memory for wgmma."""
SWIZZLES = (128, 64, 32)
"""Bytes of a swizzle, and of a tile's rows."""


class Plan(NamedTuple):
    """What a kernel is compiled for."""

    rules: Rules
    sizes: MosaicSizes
    page: int
    dtype: Any
    group: int
    """Query heads of a kv head."""
    compute: int
    """Warpgroups that multiply; one more copies."""

    @property
    def piece(self) -> int:
        """Keys that one copy brings."""
        return min(self.page, self.sizes.block)

    @property
    def value_lanes(self) -> list[Any]:
        """The lanes of the values that one wgmma takes."""
        V = self.rules.value_dim
        width = LANES if V <= LANES else MANY_LANES
        return [pl.ds(start, min(width, V - start)) for start in range(0, V, width)]


class Span(NamedTuple):
    """The keys of a program: no query sees one before `first` or from `stop` on."""

    first: jax.Array
    stop: jax.Array
    first_block: jax.Array
    num_blocks: jax.Array


class Seen(NamedTuple):
    """The state of the softmax."""

    top: jax.Array
    """`[M]`: the largest score, in log2"""
    total: jax.Array
    """`[M]`: the sum of the weights over 2^top"""
    parts: tuple[jax.Array, ...]
    """the weighted sum of the values, lanes beside lanes"""


class Ring(NamedTuple):
    """The blocks in shared memory, and their barriers."""

    k: Any
    """`[stages, C, H]`"""
    v: Any
    """`[stages, C, V]`"""
    ready: Any
    used: Any


def span_of(first: jax.Array, stop: jax.Array, block: int) -> Span:
    """The blocks that hold the keys from `first` to `stop`; none where there is no key."""
    first_block = div(first, block)
    num_blocks = jnp.where(first < stop, div(stop + (block - 1), block) - first_block, 0)
    return Span(first, stop, first_block, num_blocks)


def matrix(shape: tuple[int, ...], width: int, dtype: Any) -> Any:
    """Shared memory for an operand of wgmma: in tiles with the widest swizzle that `width` takes.

    Both operands of a product need the same one.
    """
    swizzle = next(size for size in SWIZZLES if width * 2 % size == 0)
    tiling = plgpu.TilingTransform((TILE_ROWS, swizzle // 2))
    return plgpu.SMEM(shape, dtype, transforms=(tiling, plgpu.SwizzleTransform(swizzle)))


def ring_types(plan: Plan, head_dim: int) -> tuple[list[Any], list[Any]]:
    """Scratch for the blocks, and for their barriers: what `Ring` holds."""
    stages, C, V = plan.sizes.num_stages, plan.sizes.block, plan.rules.value_dim
    blocks = [matrix((stages, C, size), size, plan.dtype) for size in (head_dim, V)]
    copies = 2 * (C // plan.piece)
    return blocks, [
        plgpu.Barrier(num_arrivals=copies, num_barriers=stages),
        plgpu.Barrier(num_arrivals=plan.compute, num_barriers=stages),
    ]


def kernel_of(
    body: Callable[..., None],
    plan: Plan,
    grid: dict[str, int],
    results: tuple[jax.ShapeDtypeStruct, ...],
    scratch: list[Any],
    *,
    interpret: bool,
) -> Callable[..., Any]:
    """A kernel whose programs have the plan's warpgroups; the interpreter looks for races."""
    return plgpu.kernel(
        partial(body, plan),
        out_type=results,
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=plan.compute + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
    )


def copy_blocks(plan: Plan, span: Span, pool: Pool, row: Any, kv_head: Any, ring: Ring) -> None:
    """All blocks of the span, each page for itself; a page that holds no key of it is not read."""
    stages, C, piece = plan.sizes.num_stages, plan.sizes.block, plan.piece
    pages = div(span.first, plan.page), div(span.stop - 1, plan.page)

    @pl.loop(0, span.num_blocks)
    def _(turn: jax.Array) -> None:
        slot = rem(turn, stages)

        @pl.when(turn >= stages)
        def _() -> None:
            plgpu.barrier_wait(ring.used.at[slot])

        for begin in range(0, C, piece):
            key = (span.first_block + turn) * C + begin
            page = pool.tables[row, jnp.clip(div(key, plan.page), *pages)]
            slots = pl.ds(rem(key, plan.page), piece)
            sources: tuple[Any, Any] = pool.k, pool.v
            for source, block in zip(sources, (ring.k, ring.v), strict=True):
                plgpu.copy_gmem_to_smem(
                    source.at[page, slots, kv_head],
                    block.at[slot, pl.ds(begin, piece)],
                    ring.ready.at[slot],
                )

    # So that every arrival is waited for, as the interpreter asks.
    for slot in range(stages):

        @pl.when(slot < span.num_blocks)
        def _(slot: int = slot) -> None:
            plgpu.barrier_wait(ring.used.at[slot])


def empty(plan: Plan) -> Seen:
    """No key seen yet."""
    of_row = plgpu.Layout.WGMMA.reduce(1)
    top = plgpu.layout_cast(jnp.full((MOSAIC_ROWS,), MASKED, jnp.float32), of_row)
    total = plgpu.layout_cast(jnp.zeros((MOSAIC_ROWS,), jnp.float32), of_row)
    zeros = [jnp.zeros((MOSAIC_ROWS, lanes.size), jnp.float32) for lanes in plan.value_lanes]
    return Seen(top, total, tuple(plgpu.layout_cast(x, plgpu.Layout.WGMMA) for x in zeros))


def visit(
    plan: Plan,
    span: Span,
    q_smem: Any,
    ring: Ring,
    weights_smem: Any,
    sees: Callable[[jax.Array], jax.Array],
    clear: Callable[[Callable[[], None]], None],
    turn: jax.Array,
    seen: Seen,
) -> Seen:
    """The softmax with one more block of keys.

    Args:
        sees: `keys [M, C] -> bool [M, C]`: which of them a query sees.
        clear: runs what it is given in one of the warpgroups that multiply, and has the others
            wait for that.
    """
    C, slot = plan.sizes.block, rem(turn, plan.sizes.num_stages)
    begin = (span.first_block + turn) * C
    plgpu.barrier_wait(ring.ready.at[slot])

    def score(acc: Any) -> jax.Array:
        plgpu.wgmma(acc, q_smem, ring.k.at[slot].transpose((1, 0)))
        return acc[...]

    scores = pl.run_scoped(score, plgpu.WGMMAAccumulatorRef((MOSAIC_ROWS, C), jnp.float32))
    if plan.rules.soft_cap is None:
        scores = scores * (plan.rules.scale * LOG2_E)
    else:
        scores = jnp.tanh(scores * (plan.rules.scale / plan.rules.soft_cap))
        scores = scores * (plan.rules.soft_cap * LOG2_E)
    scores = jnp.where(sees(begin + _iota((MOSAIC_ROWS, C), 1)), scores, MASKED)
    top = jnp.maximum(seen.top, scores.max(axis=1))
    shrink = jnp.exp2(seen.top - top)
    weights = jnp.exp2(scores - lax.broadcast_in_dim(top, scores.shape, [0]))
    total = seen.total * shrink + weights.sum(axis=1)
    weights_smem[...] = weights.astype(plan.dtype)
    plgpu.commit_smem()

    def clear_values() -> None:
        # What no query sees may be anything, nan included, and 0 x nan would be nan.
        values = ring.v.at[slot]
        loaded = plgpu.load(values, layout=plgpu.Layout.WGMMA)
        keys = begin + _iota(loaded.shape, 0)
        inside = (keys >= span.first) & (keys < span.stop)
        values[...] = jnp.where(inside, loaded, jnp.zeros_like(loaded))
        plgpu.commit_smem()

    @pl.when((begin < span.first) | (begin + C > span.stop))
    def _() -> None:
        clear(clear_values)

    parts = []
    for lanes, part in zip(plan.value_lanes, seen.parts, strict=True):

        def weigh(acc: Any, lanes: Any = lanes) -> jax.Array:
            plgpu.wgmma(acc, weights_smem, ring.v.at[slot, :, lanes])
            return acc[...]

        shape = (MOSAIC_ROWS, lanes.size)
        added = pl.run_scoped(weigh, plgpu.WGMMAAccumulatorRef(shape, jnp.float32))
        parts.append(part * lax.broadcast_in_dim(shrink, shape, [0]) + added)
    plgpu.barrier_arrive(ring.used.at[slot])
    return Seen(top, total, tuple(parts))


def row_numbers() -> jax.Array:
    """`[M]`: 0, 1, 2, ..."""
    return plgpu.broadcasted_iota(jnp.int32, (MOSAIC_ROWS,), 0, layout=plgpu.Layout.WGMMA.reduce(1))


def _iota(shape: tuple[int, ...], dimension: int) -> jax.Array:
    return plgpu.broadcasted_iota(jnp.int32, shape, dimension, layout=plgpu.Layout.WGMMA)
