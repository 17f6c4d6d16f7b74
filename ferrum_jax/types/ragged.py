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
