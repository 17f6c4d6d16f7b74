"""What a paged attention is told when it is compiled, and which keys a query sees.

Dimension key: T tokens, H head, V value head, C keys of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

SMALLEST_RUN = 16
"""Lanes below which a matrix unit takes no operand."""


class Rules(NamedTuple):
    """The mathematics of one call; a value, so that equal calls share a program."""

    scale: float
    window: int | None = None
    chunk: int | None = None
    soft_cap: float | None = None
    alibi_rounded: bool = False
    value_dim: int = 0


class LaneRun(NamedTuple):
    """Consecutive lanes of a head; a power of two, of which `real` lie inside the head."""

    start: int
    width: int
    real: int


def power_of_two(size: int) -> int:
    """The least power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def lane_runs(size: int) -> tuple[LaneRun, ...]:
    """One or two runs that cover a head: 64 is one, 96 is 64 + 32, 576 is 512 + 64.

    Tiles are powers of two. Two of them instead of one larger one cost no product with padding at
    the usual head sizes.
    """
    main = 1 << (size.bit_length() - 1)
    if main == size or size < SMALLEST_RUN:
        width = max(SMALLEST_RUN, power_of_two(size))
        return (LaneRun(0, width, size),)
    rest = size - main
    return LaneRun(0, main, main), LaneRun(main, max(SMALLEST_RUN, power_of_two(rest)), rest)


def first_key(positions: jax.Array, rules: Rules) -> jax.Array:
    """The first key that a query at a position sees."""
    first = jnp.zeros_like(positions)
    if rules.window is not None:
        first = jnp.maximum(first, positions - jnp.int32(rules.window - 1))
    if rules.chunk is not None:
        chunk = jnp.int32(rules.chunk)
        first = jnp.maximum(first, jax.lax.div(positions, chunk) * chunk)
    return first


def token_places(
    query_starts: jax.Array, context_lens: jax.Array, num_tokens: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each token its row, its position in its sequence, and whether it is any row's."""
    num_rows = context_lens.shape[0]
    index = jnp.arange(num_tokens, dtype=jnp.int32)
    rows = jnp.searchsorted(query_starts[1:], index, side="right").astype(jnp.int32)
    valid = rows < num_rows
    rows = jnp.minimum(rows, num_rows - 1)
    behind = query_starts[rows + 1] - index
    return rows, jnp.where(valid, context_lens[rows] - behind, -1), valid
