"""One step's plan, as the scheduler hands it to the executor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ferrum_jax.types.request import Sequence


class ScheduledChunk(NamedTuple):
    """Tokens `[start, start + length)` of a sequence."""

    sequence: Sequence
    start: int
    length: int
    samples: bool
    """Whether the chunk ends at the sequence's last token, so that the next one is sampled."""
    draft: tuple[int, ...] = ()
    """What the chunk's last tokens are, if they are a guess that this step verifies."""
    steps: int = 1
    """How many steps run the chunk, a token each, before the host reads what they sampled: each
    runs the token that the one before has sampled."""

    @property
    def end(self) -> int:
        """Behind the last token that is known before the chunk runs."""
        return self.start + self.length - len(self.draft) - self.steps + 1


class ChunkColumns(NamedTuple):
    """The chunks of a step, a tuple of each of their fields: what a step of a thousand rows can
    afford to make and to look through."""

    sequences: tuple[Sequence, ...] = ()
    starts: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    samples: tuple[bool, ...] = ()
    drafts: tuple[tuple[int, ...], ...] = ()
    steps: tuple[int, ...] = ()

    @classmethod
    def of(cls, chunks: Iterable[ScheduledChunk]) -> ChunkColumns:
        """The columns of some chunks."""
        return cls(*zip(*chunks, strict=True))


@dataclass(frozen=True)
class Schedule:
    """The chunks of one step, and what had to give way."""

    columns: ChunkColumns
    admitted: tuple[Sequence, ...] = ()
    """Sequences that were given a slot in this step; their state must reach the device."""
    preempted: tuple[Sequence, ...] = ()
    swapped_out: tuple[tuple[Sequence, tuple[int, ...]], ...] = ()
    """Preempted sequences and the pages that go to host memory, before anything is written."""
    copies: tuple[tuple[Sequence, int, int], ...] = ()
    """Pages to copy, (for whom, from, to), after the swapped ones were read: a sequence copies a
    shared page before it writes to it."""
    swapped_in: tuple[tuple[Sequence, tuple[int, ...]], ...] = ()
    """Admitted sequences and the pages that come back from host memory, before the step runs."""

    @classmethod
    def of(cls, chunks: Iterable[ScheduledChunk] = (), **moves: Any) -> Schedule:
        """A schedule of some chunks; `moves` are its other fields."""
        return cls(ChunkColumns.of(chunks), **moves)

    @cached_property
    def chunks(self) -> tuple[ScheduledChunk, ...]:
        """The chunks one by one, made when they are first asked for."""
        return tuple(map(ScheduledChunk._make, zip(*self.columns, strict=True)))

    @property
    def num_rows(self) -> int:
        return len(self.columns.sequences)

    @cached_property
    def num_tokens(self) -> int:
        return sum(self.columns.lengths)

    @cached_property
    def steps(self) -> int:
        """Steps that it takes: more than one only where every chunk is a decode without a draft."""
        return max(self.columns.steps, default=1)
