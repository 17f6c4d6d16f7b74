"""How a step's tokens lie in tiles, for mixers that run along a sequence.

Dimension key: T tokens, X tiles, C tokens of a tile.
"""

from __future__ import annotations

import jax
from flax import struct


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
