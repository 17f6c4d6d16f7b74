"""Pages into blocks in shared memory, on a Hopper GPU: what the copying warpgroup does.

Blocks lie in a ring; barriers say when one is there and when it is used up. Pages of 16 bits are
copied into it as they are (TMA). Pages of 8 bits are copied into a ring of their own, and become
blocks of the products' dtype by the way, exactly; their scales stay beside them.

Dimension key: M queries of a warpgroup, C keys of a block, H head, V value head.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic.gpu import fragmented_array
from jax.experimental.pallas import mosaic_gpu

from pallas_kernels.online import Pool, div, rem
from pallas_kernels.rules import Rules
from pallas_kernels.tuning import MOSAIC_ROWS, MosaicSizes, Tuning, mosaic_sizes

plgpu: Any = mosaic_gpu
"""Its names and signatures differ from jax to jax."""
LANES, MANY_LANES, MOST_LANES = 128, 64, 256
"""Elements of a value that one product takes; for values of more than these, as all lanes are in
registers, and so is what a product adds to some of them; and what a warpgroup's registers hold."""
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
    """Of the queries and the products."""
    stored: Any
    """Of the pages."""
    head_dim: int
    latent: bool
    """Whether a value is the beginning of its key."""
    heads: int
    """Query heads of a kv head."""
    tiles: int
    """Of 64 queries each, in a program."""
    compute: int
    """Warpgroups that multiply, each a tile or its share of the values' lanes; one more copies."""

    @property
    def groups(self) -> int:
        """Groups of a kv head's query heads."""
        return pl.cdiv(self.heads, MOSAIC_ROWS)

    @property
    def group(self) -> int:
        """Query heads of a program, which share a kv head."""
        return pl.cdiv(self.heads, self.groups)

    @property
    def piece(self) -> int:
        """Keys that one copy brings."""
        return min(self.page, self.sizes.block)

    @property
    def widths(self) -> tuple[int, ...]:
        """Elements of a key and, unless they are in the keys, of a value."""
        return (self.head_dim,) if self.latent else (self.head_dim, self.rules.value_dim)

    @property
    def quantised(self) -> bool:
        return jnp.dtype(self.stored).itemsize == 1

    @property
    def shares(self) -> list[list[Any]]:
        """The lanes of the values that one wgmma takes, of each warpgroup that has its own.

        One list: the warpgroups multiply all lanes, each for its own queries.
        """
        lanes = self.lanes(self.rules.value_dim)
        half = -(-len(lanes) // 2)
        few = self.rules.value_dim <= MOST_LANES
        return [lanes] if few else [lanes[:half], lanes[half:]]

    def lanes(self, size: int) -> list[Any]:
        """All lanes of a key or value, so many at a time as the registers have room for."""
        width = LANES if self.rules.value_dim <= LANES else MANY_LANES
        return [pl.ds(start, min(width, size - start)) for start in range(0, size, width)]

    @property
    def rows_layout(self) -> Any:
        """How the warpgroup holds a block that it changes, row by row."""
        if self.sizes.block % MOSAIC_ROWS == 0:
            return plgpu.Layout.WGMMA
        # As wgmma's, with 8 rows for each warp in place of 16.
        tiles = fragmented_array.Tiling(((32, 8), (8, 8), (2,)))
        return plgpu.Layout.TILED(tiles, (-5,), (-3, -2), -1)


class Span(NamedTuple):
    """The keys of a program: no query sees one before `first` or from `stop` on."""

    first: jax.Array
    stop: jax.Array
    first_block: jax.Array
    num_blocks: jax.Array


class Ring(NamedTuple):
    """The blocks in shared memory, and their barriers."""

    blocks: tuple[Any, ...]
    """of keys and, unless they are in the keys, of values: `[stages, C, width]` each"""
    ready: Any
    used: Any
    scales: tuple[Any, ...] = ()
    """of quantised pages, `[stages, C, 1]` each"""
    stored: tuple[Any, ...] = ()
    """blocks as they are in the pages, `[raw stages, C, width]` each"""
    fetched: Any = None
    """the barriers of `stored`"""


def make_plan(q: jax.Array, pool: Pool, rules: Rules, tuning: Tuning, *, tiles: int = 1) -> Plan:
    """The plan for programs of up to `tiles` times 64 queries."""
    V = rules.value_dim
    tiles = tiles if V <= LANES else 1  # The results of longer values fill the registers of one.
    compute = tiles if V <= MOST_LANES else 2
    return Plan(
        rules,
        mosaic_sizes(q, pool, rules, tuning, tiles=tiles, compute=compute),
        page=pool.k.shape[1],
        dtype=q.dtype,
        stored=_as_float8(pool.k.dtype),
        head_dim=q.shape[2],
        latent=pool.v is None,
        heads=q.shape[1] // pool.k.shape[2],
        tiles=tiles,
        compute=compute,
    )


def in_groups(plan: Plan, x: jax.Array) -> jax.Array:
    """`[X, N, ...]` of query heads as `[X, B, G, ...]` of programs, zeros behind a kv head's."""
    X, _, *rest = x.shape
    x = x.reshape(X, -1, plan.heads, *rest)
    unused = plan.groups * plan.group - plan.heads
    x = jnp.pad(x, ((0, 0), (0, 0), (0, unused), *((0, 0) for _ in rest)))
    return x.reshape(X, -1, plan.group, *rest)


def by_head(plan: Plan, x: jax.Array) -> jax.Array:
    """`[X, B, G, ...]` of programs as `[X, N, ...]` of query heads."""
    X, _, _, *rest = x.shape
    x = x.reshape(X, -1, plan.groups * plan.group, *rest)[:, :, : plan.heads]
    return x.reshape(X, -1, *rest)


def pool_arrays(pool: Pool) -> list[Any]:
    """What a kernel is given of a pool, float8 as such."""
    arrays = [pool.k, pool.v, pool.k_scales, pool.v_scales, pool.tables]
    given = [array for array in arrays if array is not None]
    return [lax.bitcast_convert_type(array, _as_float8(array.dtype)) for array in given]


def _as_float8(dtype: Any) -> Any:
    """uint8 holds its bits."""
    return jnp.dtype(jnp.float8_e4m3fn) if dtype == jnp.uint8 else dtype


def num_pool_arrays(plan: Plan) -> int:
    """How many these are."""
    return 1 + len(plan.widths) * (1 + plan.quantised)


def span_of(first: jax.Array, stop: jax.Array, block: int) -> Span:
    """The blocks that hold the keys from `first` to `stop`; none where there is no key."""
    first_block = div(first, block)
    num_blocks = jnp.where(first < stop, div(stop + (block - 1), block) - first_block, 0)
    return Span(first, stop, first_block, num_blocks)


def matrix(plan: Plan, shape: tuple[int, ...]) -> Any:
    """Shared memory for an operand of wgmma: in tiles with the widest swizzle that all take."""
    common = 2 * math.gcd(plan.sizes.block, plan.rules.value_dim, plan.head_dim)
    swizzle = next(size for size in SWIZZLES if common % size == 0)
    tiling = plgpu.TilingTransform((TILE_ROWS, swizzle // 2))
    return plgpu.SMEM(shape, plan.dtype, transforms=(tiling, plgpu.SwizzleTransform(swizzle)))


def ring_types(plan: Plan) -> tuple[list[Any], list[Any]]:
    """Scratch for the blocks, and for their barriers: what `ring_of` makes a ring of."""
    C, stages, raw = plan.sizes.block, plan.sizes.num_stages, plan.sizes.num_stored
    copies = len(plan.widths) * (C // plan.piece)
    blocks = [matrix(plan, (stages, C, width)) for width in plan.widths]
    used = plgpu.Barrier(num_arrivals=plan.compute, num_barriers=stages)
    if not plan.quantised:
        return blocks, [plgpu.Barrier(num_arrivals=copies, num_barriers=stages), used]
    blocks += [plgpu.SMEM((stages, C, 1), jnp.float32) for _ in plan.widths]
    blocks += [plgpu.SMEM((raw, C, width), plan.stored) for width in plan.widths]
    fetched = plgpu.Barrier(num_arrivals=copies, num_barriers=raw)
    return blocks, [plgpu.Barrier(num_barriers=stages), used, fetched]


def ring_of(plan: Plan, memory: Any, barriers: Any) -> Ring:
    """The ring in its scratch."""
    count = len(plan.widths)
    blocks, scales, stored = (tuple(memory[i * count : (i + 1) * count]) for i in range(3))
    ready, used, *fetched = barriers
    return Ring(blocks, ready, used, scales, stored, *fetched)


def copy_blocks(plan: Plan, span: Span, refs: Any, row: Any, head: Any, ring: Ring) -> None:
    """All blocks of the span, each page for itself; a page that holds no key of it is not read.

    Args:
        refs: the pool's arrays, the block tables last.
        head: the program's group of query heads.
    """
    *arrays, tables = refs
    pages, scales = arrays[: len(plan.widths)], arrays[len(plan.widths) :]
    source = Source(plan, span, tables, row, div(head, plan.groups))
    if plan.quantised:
        _convert(source, pages, scales, ring)
    else:
        _copy(source, pages, ring)
    # So that every arrival is waited for, as the interpreter asks.
    for slot in range(plan.sizes.num_stages):

        @pl.when(slot < span.num_blocks)
        def _(slot: int = slot) -> None:
            plgpu.barrier_wait(ring.used.at[slot])


class Source(NamedTuple):
    """Where the keys of a program are."""

    plan: Plan
    span: Span
    tables: Any
    row: Any
    kv_head: Any

    def pieces(self, turn: Any) -> list[tuple[Any, Any, Any]]:
        """The pieces of a block: where each begins in it, its page, and its slots there."""
        plan, found = self.plan, []
        first, last = div(self.span.first, plan.page), div(self.span.stop - 1, plan.page)
        for begin in range(0, plan.sizes.block, plan.piece):
            key = (self.span.first_block + turn) * plan.sizes.block + begin
            page = self.tables[self.row, jnp.clip(div(key, plan.page), first, last)]
            found.append((pl.ds(begin, plan.piece), page, pl.ds(rem(key, plan.page), plan.piece)))
        return found

    def fetch(self, turn: Any, pages: Any, blocks: Any, slot: Any, barriers: Any) -> None:
        """Begin the copies of a block."""
        for where, page, slots in self.pieces(turn):
            for array, block in zip(pages, blocks, strict=True):
                plgpu.copy_gmem_to_smem(
                    array.at[page, slots, self.kv_head], block.at[slot, where], barriers.at[slot]
                )


def _copy(source: Source, pages: Any, ring: Ring) -> None:
    stages = source.plan.sizes.num_stages

    @pl.loop(0, source.span.num_blocks)
    def _(turn: jax.Array) -> None:
        slot = rem(turn, stages)

        @pl.when(turn >= stages)
        def _() -> None:
            plgpu.barrier_wait(ring.used.at[slot])

        source.fetch(turn, pages, ring.blocks, slot, ring.ready)


def _convert(source: Source, pages: Any, scales: Any, ring: Ring) -> None:
    plan, count = source.plan, source.span.num_blocks
    stages, raw = plan.sizes.num_stages, plan.sizes.num_stored

    def fetch(turn: Any) -> None:
        source.fetch(turn, pages, ring.stored, rem(jnp.int32(turn), raw), ring.fetched)

    for first in range(raw):
        pl.when(first < count)(partial(fetch, first))

    @pl.loop(0, count)
    def _(turn: jax.Array) -> None:
        slot, fetched = rem(turn, stages), rem(turn, raw)
        read = [_scales(source, turn, array) for array in scales]

        @pl.when(turn >= stages)
        def _() -> None:
            plgpu.barrier_wait(ring.used.at[slot])

        for pieces, block in zip(read, ring.scales, strict=True):
            for where, values in pieces:
                block[slot, where] = values
        plgpu.barrier_wait(ring.fetched.at[fetched])
        for stored, block in zip(ring.stored, ring.blocks, strict=True):
            for lanes in plan.lanes(block.shape[-1]):
                block[slot, :, lanes] = _numbers(source, turn, stored.at[fetched, :, lanes])
        plgpu.commit_smem()
        plgpu.barrier_arrive(ring.ready.at[slot])

        @pl.when(turn + raw < count)
        def _() -> None:
            fetch(turn + raw)


def _numbers(source: Source, turn: Any, stored: Any) -> jax.Array:
    """A block in the dtype of the products; 0 where no query sees a key, as float8 may be nan."""
    plan, span = source.plan, source.span
    values = plgpu.load(stored, layout=plan.rows_layout)
    if not jnp.issubdtype(plan.stored, jnp.floating):
        return values.astype(plan.dtype)
    keys = (span.first_block + turn) * plan.sizes.block + plgpu.broadcasted_iota(
        jnp.int32, values.shape, 0, layout=plan.rows_layout
    )
    numbers = values.astype(jnp.float16).astype(plan.dtype)
    return jnp.where((keys >= span.first) & (keys < span.stop), numbers, jnp.zeros_like(numbers))


def _scales(source: Source, turn: Any, array: Any) -> list[tuple[Any, jax.Array]]:
    """The scales of a block's pieces, and where they belong; 0 where no query sees a key."""
    plan, span, found = source.plan, source.span, []
    # One for each group of four lanes, as they lie apart from one another in memory.
    rest = fragmented_array.Replicated(4)
    layout = plgpu.Layout.TILED(fragmented_array.Tiling(((8, 1),)), (rest,), (-2, rest), -1)
    for where, page, slots in source.pieces(turn):
        values = plgpu.load(
            array.at[page, slots, pl.ds(source.kv_head, 1)], layout=layout, optimized=False
        )
        begin = (span.first_block + turn) * plan.sizes.block + where.start
        keys = begin + plgpu.broadcasted_iota(jnp.int32, values.shape, 0, layout=layout)
        seen = (keys >= span.first) & (keys < span.stop)
        found.append((where, jnp.where(seen, values, jnp.zeros_like(values))))
    return found
