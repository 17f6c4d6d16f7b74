"""Sizes of the kernels' tiles, from head sizes and dtypes.

They are chosen so that every kernel compiles without spilled registers for an H200 and within the
shared memory of an RTX 4090 (`tests/kernels/test_gpu_compile.py`). None was measured on a GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pallas_kernels.online import Pool, compute_dtype
from pallas_kernels.rules import Rules, lane_runs, power_of_two

BLOCK_BYTES = 16384
"""Bytes of keys, and as many of values, that one iteration loads, as numbers of their products."""
MIN_BLOCK_KEYS, MAX_BLOCK_KEYS = 16, 64
SPLIT_KEYS, MAX_SPLITS = 512, 64
"""Keys of a decode split, unless a table would then have more splits than that."""
MIN_TILE = 16
"""Queries below which a matrix unit takes no operand."""
MAX_HEAD_TILE = 32
"""Query heads of a decode that share one read of the keys; a larger group reads them again."""
WIDE = 512
"""Elements of a head from which a tile's results fill the registers of 8 warps."""


class Tuning(NamedTuple):
    """Sizes of tiles; they change the speed and the order of sums, never what is computed.

    None: chosen from the head size and the dtypes.
    """

    split_keys: int | None = None
    """Keys of one decode split."""
    decode_block: int | None = None
    """Keys that one iteration of decode reads."""
    prefill_rows: int | None = None
    """Queries of a prefill tile, each token's heads of one kv head counted."""
    prefill_block: int | None = None
    """Keys that one iteration of prefill reads."""
    num_warps: int | None = None
    num_stages: int | None = None
    """Blocks in flight."""


class DecodeSizes(NamedTuple):
    """What a decode is launched with."""

    head_tile: int
    block: int
    split_keys: int
    """A number of whole blocks."""
    num_warps: int
    num_stages: int


class PrefillSizes(NamedTuple):
    """What a prefill is launched with."""

    rows: int
    block: int
    num_warps: int
    num_stages: int


def decode_sizes(q: Any, pool: Pool, rules: Rules, tuning: Tuning) -> DecodeSizes:
    """Sizes for single tokens; they do not depend on how many there are."""
    wide = max(pool.k.shape[3], rules.value_dim) >= WIDE
    group = q.shape[1] // pool.k.shape[2]
    most = MIN_TILE if wide and compute_dtype(q, pool.k).itemsize == 4 else MAX_HEAD_TILE
    block = tuning.decode_block or _block_keys(q, pool)
    return DecodeSizes(
        head_tile=min(max(MIN_TILE, power_of_two(group)), most),
        block=block,
        split_keys=_split_keys(pool, tuning, block),
        num_warps=tuning.num_warps or (8 if wide else 4),
        num_stages=tuning.num_stages or 2,
    )


def prefill_sizes(q: Any, pool: Pool, rules: Rules, tuning: Tuning) -> PrefillSizes:
    """Sizes for runs of tokens."""
    head, itemsize = max(pool.k.shape[3], rules.value_dim), compute_dtype(q, pool.k).itemsize
    if itemsize == 4:
        rows = 16 if head >= WIDE else 32
    elif head >= WIDE:
        rows = 32 if pool.k.dtype.itemsize == 1 else 64
    else:
        rows = 128 if head <= 128 else 64
    rows = tuning.prefill_rows or rows
    # No more than all tokens fill: a step of few tokens has small tiles.
    rows = min(rows, power_of_two(q.shape[0] * (q.shape[1] // pool.k.shape[2])))
    many = itemsize == 4 or rows * power_of_two(head) >= 128 * 128
    return PrefillSizes(
        rows=max(MIN_TILE, rows),
        block=tuning.prefill_block or _block_keys(q, pool),
        num_warps=tuning.num_warps or (8 if many else 4),
        num_stages=tuning.num_stages or 2,
    )


def _block_keys(q: Any, pool: Pool) -> int:
    lanes = sum(run.width for run in lane_runs(pool.k.shape[3]))
    fit = BLOCK_BYTES // (lanes * compute_dtype(q, pool.k).itemsize)
    return min(max(MIN_BLOCK_KEYS, power_of_two(fit + 1) // 2), MAX_BLOCK_KEYS)


class MosaicSizes(NamedTuple):
    """What a kernel on a Hopper GPU is launched with."""

    block: int
    split_keys: int
    num_stages: int
    """Blocks of the ring in shared memory."""
    num_stored: int
    """Blocks of quantised pages that are on their way."""


MOSAIC_BLOCKS = (64, 32)
"""Keys of a block on a Hopper GPU; fewer where two of them and the queries would not fit."""
MOSAIC_ROWS = 64
"""Queries of a warpgroup: rows that one wgmma takes."""
MOSAIC_BYTES = 220_000
"""Shared memory that a kernel takes, a little below what a block of a Hopper GPU can have."""
MAX_STAGES = 4


def mosaic_sizes(
    q: Any, pool: Pool, rules: Rules, tuning: Tuning, *, tiles: int, compute: int
) -> MosaicSizes:
    """Sizes on a Hopper GPU, for programs of `tiles` times 64 queries and of `compute` warpgroups
    that multiply."""
    H, quantised = q.shape[2], pool.k.dtype.itemsize == 1
    of_key = H + (0 if pool.v is None else rules.value_dim)
    fit = stages = stored = block = 0
    for block in MOSAIC_BLOCKS:
        fixed = 2 * MOSAIC_ROWS * (tiles * H + compute * block)
        if quantised:
            stages = tuning.num_stages or 2
            fit = (MOSAIC_BYTES - fixed) // (block * of_key) - 2 * stages
            stored = max(2, min(MAX_STAGES, fit))
        else:
            fit = (MOSAIC_BYTES - fixed) // (2 * block * of_key)
            stages = tuning.num_stages or max(2, min(MAX_STAGES, fit))
        if fit >= 2:
            break
    return MosaicSizes(block, _split_keys(pool, tuning, block), stages, stored)


def _split_keys(pool: Pool, tuning: Tuning, block: int) -> int:
    """Keys of a decode split, in whole blocks."""
    keys = pool.tables.shape[1] * pool.k.shape[1]
    split = tuning.split_keys or max(SPLIT_KEYS, power_of_two(-(-keys // MAX_SPLITS)))
    return -(-split // block) * block
