"""Two streams of pieces of the same documents, cut so that they run side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True, eq=False)
class Piece:
    """Values of consecutive tokens of one document."""

    document: int
    start: int
    """The first token's position."""
    values: Any
    """A pytree of arrays `[n, ...]`."""

    @property
    def num_tokens(self) -> int:
        """n."""
        return len(jax.tree.leaves(self.values)[0])

    def part(self, start: int, stop: int) -> Piece:
        """The tokens from `start` to `stop`, counted within the piece."""
        values = jax.tree.map(lambda x: x[start:stop], self.values)
        return Piece(self.document, self.start + start, values)


Held = dict[int, deque[Piece]]
"""Pieces that wait for their partners, by document."""


def matched(
    a: Iterator[Piece], b: Iterator[Piece], *, in_turns: bool
) -> Iterator[tuple[Piece, Piece]]:
    """Pairs of pieces of the same tokens; what has no partner yet is held.

    Args:
        a, b: the same tokens; the pieces of each document in order, those of several documents may
            stand between one another.
        in_turns: take from whichever stream is behind, so that little is held. Else `a` is read to
            its end first, as must be where both step one engine: each side then runs in the
            batches in which it would run alone.
    """
    streams, counts = (a, b), [0, 0]
    held: tuple[Held, Held] = ({}, {})
    open_sides = [0, 1]
    while open_sides:
        side = min(open_sides, key=lambda s: counts[s]) if in_turns else open_sides[0]
        piece = next(streams[side], None)
        if piece is None:
            open_sides.remove(side)
            continue
        counts[side] += piece.num_tokens
        held[side].setdefault(piece.document, deque()).append(piece)
        yield from _pairs(held, piece.document)
    assert not held[0], f"only one side gave tokens of documents {sorted(held[0])}"
    assert not held[1], f"only one side gave tokens of documents {sorted(held[1])}"


def _pairs(held: tuple[Held, Held], document: int) -> Iterator[tuple[Piece, Piece]]:
    """Pairs that a document's held pieces make; they are held no longer."""
    queues = [side.get(document, deque()) for side in held]
    while all(queues):
        count = min(queue[0].num_tokens for queue in queues)
        heads = []
        for queue in queues:
            piece = queue.popleft()
            if piece.num_tokens > count:
                queue.appendleft(piece.part(count, piece.num_tokens))
            heads.append(piece.part(0, count))
        yield heads[0], heads[1]
    for side in held:
        if not side.get(document):
            side.pop(document, None)
