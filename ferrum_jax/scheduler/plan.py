"""A step while it is being formed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ferrum_jax.types import ChunkColumns, Schedule, ScheduledChunk, Sequence

Pages = tuple[int, ...]
Row = tuple[int, bool, tuple[int, ...], int]
"""Of a `ScheduledChunk` the length, whether it samples, the draft and the steps."""
NEXT: Row = (1, True, (), 1)
"""Of one that runs a sequence's last token and gains the next, as most do."""


@dataclass(slots=True)
class StepPlan:
    """What has been decided so far; a sequence that gives way is taken out again."""

    budget: int
    """Tokens that the step still has room for."""
    swapped_out: list[tuple[Sequence, Pages]]
    starts: dict[Sequence, int] = field(default_factory=dict)
    """Where the chunk of each sequence that has one starts."""
    others: dict[Sequence, Row] = field(default_factory=dict)
    """Of the chunks that are not `NEXT`, the rest."""
    copies: dict[Sequence, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    swapped_in: list[tuple[Sequence, Pages]] = field(default_factory=list)
    by_rank: list[Sequence] | None = None
    """The running sequences, the last to give way first; made when pages first run out."""

    def put_next(self, sequence: Sequence, start: int) -> None:
        """Let a sequence run its last token, to gain the next one: `put`, for what most do."""
        self.starts[sequence] = start
        self.budget -= 1
        sequence.num_scheduled = start + 1
        sequence.num_pending += 1

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
        self.starts[sequence] = start
        if (row := (end - start, samples, draft, 1)) != NEXT:
            self.others[sequence] = row
        self.budget -= end - start
        sequence.num_scheduled, sequence.num_drafted = end, len(draft)
        sequence.num_pending += samples

    def repeat(self, sequence: Sequence, steps: int) -> ScheduledChunk:
        """Let one that decodes gain so many tokens at once; the chunk of the further ones."""
        more = steps - 1
        self.others[sequence] = (steps, True, (), steps)
        sequence.num_scheduled += more
        sequence.num_pending += more
        return ScheduledChunk(sequence, self.starts[sequence] + 1, more, True)

    def withdraw(self, sequence: Sequence) -> bool:
        """Take a sequence's chunk back; whether a page was going to be copied for it."""
        start = self.starts.pop(sequence, None)
        if start is not None:
            length, samples, _, _ = self.others.pop(sequence, NEXT)
            self.budget += length
            sequence.num_scheduled, sequence.num_drafted = start, 0
            sequence.num_pending -= samples
        return self.copies.pop(sequence, None) is not None

    def chunk(self, sequence: Sequence) -> ScheduledChunk:
        """What a sequence was given."""
        return ScheduledChunk(sequence, self.starts[sequence], *self.others.get(sequence, NEXT))

    def chunks(self) -> Iterator[ScheduledChunk]:
        """What all were given."""
        return map(self.chunk, self.starts)

    def columns(self) -> ChunkColumns:
        """The same, a tuple of each field: one by one only where they differ."""
        sequences, starts = tuple(self.starts), tuple(self.starts.values())
        if self.others:
            rows = [self.others.get(sequence, NEXT) for sequence in sequences]
            return ChunkColumns(sequences, starts, *zip(*rows, strict=True))
        count, (length, samples, draft, steps) = len(starts), NEXT
        return ChunkColumns(
            sequences,
            starts,
            (length,) * count,
            (samples,) * count,
            (draft,) * count,
            (steps,) * count,
        )

    def schedule(self) -> Schedule:
        """The finished plan."""
        return Schedule(
            self.columns(),
            admitted=tuple(self.admitted),
            preempted=tuple(self.preempted),
            swapped_out=tuple(self.swapped_out),
            copies=tuple((s, *copy) for s, copies in self.copies.items() for copy in copies),
            swapped_in=tuple(self.swapped_in),
        )
