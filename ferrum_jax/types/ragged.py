"""How items lie in tiles: the runs that are cut, and a step's tokens for mixers along a sequence.

Dimension key: T tokens, X tiles, C tokens of a tile, R runs, Y items of runs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int


@struct.dataclass
class RaggedLayout:
    """Tiles of up to C consecutive tokens; those of one sequence follow one another.

    A tile begins with the state that the slot before it was left with. Where a sequence begins
    inside a tile, the tokens before and behind that place do not see each other.
    """

    tokens: jax.Array
    """int32 [X, C]: index into the tokens"""
    valid: jax.Array
    """bool [X, C]: padding stands at the end of a tile"""
    starts: jax.Array
    """bool [X, C]: whether a sequence begins with the token"""
    slots: jax.Array
    """int32 [X]: the row of the states that the tile begins with and leaves behind"""
    tile_of_token: jax.Array
    """int32 [T]: flat index into [X, C]"""
    apart: jax.Array | None = None
    """bool []: whether each tile is the only one of its slot, so that all may run at once; None:
    they are not"""


class RunTiles(NamedTuple):
    """Runs of consecutive items, cut into tiles; no tile holds items of two runs."""

    runs: Int[Array, " X"]
    """whose items a tile holds"""
    starts: Int[Array, " X"]
    """the tile's first item"""
    used: Bool[Array, " X"]
    """whether it holds any; those that do stand first, in the order of the runs"""
    first_of_run: Int[Array, " R"]
    """each run's first tile"""
    size: int

    def places(self, runs_Y: Int[Array, " Y"], offsets_Y: Int[Array, " Y"]) -> Int[Array, " Y"]:
        """Flat index into [X, size] of items, given by their run and where in it they stand."""
        return (self.first_of_run[runs_Y] + offsets_Y // self.size) * self.size + (
            offsets_Y % self.size
        )


def cut_runs(
    starts_R: Int[Array, " R"], lengths_R: Int[Array, " R"], size: int, count: int
) -> RunTiles:
    """`count` tiles of up to `size` items each, which must be enough; a run of 0 items has none."""
    tiles_R = -(-lengths_R // size)
    end_R = jnp.cumsum(tiles_R)
    first_R = end_R - tiles_R
    index_X = jnp.arange(count, dtype=jnp.int32)
    run_X = jnp.searchsorted(end_R, index_X, side="right")
    run_X = jnp.minimum(run_X, lengths_R.shape[0] - 1).astype(jnp.int32)
    start_X = starts_R[run_X] + (index_X - first_R[run_X]) * size
    return RunTiles(run_X, start_X, index_X < end_R[-1], first_R, size)


ROWS_AT_ONCE = 6
"""Rows that an old jax's fp32 product takes at a time, on an x86 CPU without AVX-512."""


def even_rows(count: int) -> int:
    """As many rows as given, or a few more, such that a product treats every row alike.

    Where a row stands must not show in its bits. With jax 0.5 and 0.6 (kernels for AVX2) it does:
    where one or two rows are left behind the last six, their sums have another order. That was seen
    with 7, 8, 14, 20 and 32 rows, and not with up to 6, nor with 10, 12, 16, 28 and 64; with jax
    0.10 and 0.12, or with AVX-512, not with any.
    """
    if jax.__version_info__ >= (0, 10) or count <= ROWS_AT_ONCE:
        return count
    left = count % ROWS_AT_ONCE
    return count + (4 - left if left in (1, 2) else 0)
