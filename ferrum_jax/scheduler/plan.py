"""A step while it is being formed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from ferrum_jax.types import Schedule, ScheduledChunk, Sequence

Pages = tuple[int, ...]
_chunk = partial(tuple.__new__, ScheduledChunk)
"""A `ScheduledChunk` of a tuple of all its fields, in a third of the time: one per row and step."""


@dataclass(slots=True)
class StepPlan:
    """What has been decided so far; a sequence that gives way is taken out again."""

    budget: int
    """Tokens that the step still has room for."""
    swapped_out: list[tuple[Sequence, Pages]]
    chunks: dict[Sequence, ScheduledChunk] = field(default_factory=dict)
    copies: dict[Sequence, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    swapped_in: list[tuple[Sequence, Pages]] = field(default_factory=list)
    by_rank: list[Sequence] | None = None
    """The running sequences, the last to give way first; made when pages first run out."""

    def put(
        self, sequence: Sequence, start: int, end: int, tokens: int, draft: tuple[int, ...] = ()
    ) -> None:
        """Let a sequence run tokens `[start, end)` and its draft, and count them as done.

        Args:
            tokens: that are known of it or on their way.
        """
        samples = end == tokens and not sequence.score_only
        if draft:
            end += len(draft)
        length = end - start
        self.chunks[sequence] = _chunk((sequence, start, length, samples, draft, 1))
        self.budget -= length
        sequence.num_scheduled, sequence.num_drafted = end, len(draft)
        sequence.num_pending += samples

    def repeat(self, sequence: Sequence, steps: int) -> ScheduledChunk:
        """Let one that decodes gain so many tokens at once; the chunk of the further ones."""
        chunk, more = self.chunks[sequence], steps - 1
        self.chunks[sequence] = chunk._replace(length=steps, steps=steps)
        sequence.num_scheduled += more
        sequence.num_pending += more
        return ScheduledChunk(sequence, chunk.start + 1, more, True)

    def withdraw(self, sequence: Sequence) -> bool:
        """Take a sequence's chunk back; whether a page was going to be copied for it."""
        chunk = self.chunks.pop(sequence, None)
        if chunk is not None:
            self.budget += chunk.length
            sequence.num_scheduled, sequence.num_drafted = chunk.start, 0
            sequence.num_pending -= chunk.samples
        return self.copies.pop(sequence, None) is not None

    def schedule(self) -> Schedule:
        """The finished plan."""
        return Schedule(
            chunks=tuple(self.chunks.values()),
            admitted=tuple(self.admitted),
            preempted=tuple(self.preempted),
            swapped_out=tuple(self.swapped_out),
            copies=tuple((s, *copy) for s, copies in self.copies.items() for copy in copies),
            swapped_in=tuple(self.swapped_in),
        )
