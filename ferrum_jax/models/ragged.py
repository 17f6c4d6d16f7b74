"""Running a mixer along ragged sequences: tile by tile, each from the state that its slot holds.

Dimension key: T tokens, X tiles, C tokens of a tile, S slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from ferrum_jax.types import RaggedLayout

DENSE_TILE = 32
"""Tokens of a tile where nothing is cached."""

State = dict[str, Array]


@struct.dataclass
class Tile:
    """Up to C consecutive tokens, as a mixer sees them."""

    segments: Int[Array, " C"]
    """counts the sequences that begin inside the tile; those of 0 go on from the state"""
    valid: Bool[Array, " C"]

    @property
    def count(self) -> Int[Array, ""]:
        """Tokens that are no padding."""
        return jnp.sum(self.valid)

    @property
    def last_segment(self) -> Int[Array, ""]:
        """The sequence that the next tile may go on with."""
        return self.segments[jnp.maximum(self.count - 1, 0)]

    @property
    def sees(self) -> Bool[Array, "C C"]:
        """Which tokens (columns) a token (row) sees: of its sequence, and not later."""
        index = jnp.arange(self.segments.shape[0])
        same = self.segments[:, None] == self.segments[None, :]
        return same & (index[:, None] >= index[None, :]) & self.valid[None, :]


Chunk = Callable[[State, Any, Tile], tuple[State, Any]]
"""From a state and a tile's inputs `[C, ...]` to the state behind it and the outputs `[C, ...]`."""


def dense_layout(positions_T: Int[Array, " T"]) -> RaggedLayout:
    """Sequences laid end to end with nothing cached; one begins wherever a position does not
    follow the one before it."""
    count = positions_T.shape[0]
    tile = min(DENSE_TILE, count)
    padded = -(-count // tile) * tile
    starts = jnp.concatenate([jnp.ones(1, bool), positions_T[1:] != positions_T[:-1] + 1])
    index = jnp.arange(padded)
    return RaggedLayout(
        tokens=jnp.minimum(index, count - 1).reshape(-1, tile),
        valid=(index < count).reshape(-1, tile),
        starts=jnp.pad(starts, (0, padded - count)).reshape(-1, tile),
        slots=jnp.zeros(padded // tile, jnp.int32),
        tile_of_token=jnp.arange(count),
    )


def by_token(layout: RaggedLayout) -> RaggedLayout:
    """The same tokens in tiles of one, for those who look at every single state."""
    count, tile = layout.tile_of_token.shape[0], layout.tokens.shape[1]
    at = jnp.clip(layout.tile_of_token, 0, layout.tokens.size - 1)
    index = jnp.arange(count)
    valid = layout.valid.reshape(-1)[at] & (layout.tokens.reshape(-1)[at] == index)
    # Padding leaves whatever state it is given as it was.
    starts = layout.starts.reshape(-1)[at] & valid
    return RaggedLayout(
        tokens=index[:, None],
        valid=valid[:, None],
        starts=starts[:, None],
        slots=layout.slots[at // tile],
        tile_of_token=index,
    )


def scan_tiles(
    chunk: Chunk, inputs_T: Any, states: State, layout: RaggedLayout
) -> tuple[Any, State]:
    """Outputs of every token, and the states `[S, ...]` as the tiles leave them.

    Tiles run one after the other; where each is another sequence's, all at once.
    """
    tiles = jax.tree.map(lambda x: x[layout.tokens], inputs_T)
    firsts = layout.starts[:, 0]
    segments = jnp.cumsum(layout.starts.at[:, 0].set(False), axis=1)
    parts = (tiles, segments, layout.valid, firsts)

    def run(state: State, part: tuple) -> tuple[State, Any]:
        inputs, segments_C, valid_C, first = part
        state = jax.tree.map(lambda s: jnp.where(first, 0.0, s), state)
        return chunk(state, inputs, Tile(segments_C, valid_C))

    def in_turn() -> tuple[Any, State]:
        def step(states: State, part: tuple) -> tuple[State, Any]:
            slot, part = part[0], part[1:]
            state, out = run({k: v[slot] for k, v in states.items()}, part)
            return {k: v.at[slot].set(state[k]) for k, v in states.items()}, out

        states_after, out = jax.lax.scan(step, states, (layout.slots, *parts))
        return out, states_after

    def at_once() -> tuple[Any, State]:
        before = {k: v[layout.slots] for k, v in states.items()}
        after, out = jax.vmap(run)(before, parts)
        return out, {k: v.at[layout.slots].set(after[k]) for k, v in states.items()}

    if layout.apart is None:
        out, states = in_turn()
    else:
        out, states = jax.lax.cond(layout.apart, at_once, in_turn)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
    return jax.tree.map(lambda x: x[layout.tile_of_token], flat), states
