"""Where the picture of a timeline has its bars and marks: a column a step, a row a sequence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ferrum_jax.runtime.timeline.steps import TimelineChunk, TimelineStep

KINDS = ("prefill", "prefill again", "decode")
"""How a chunk is coloured: `prefill again` holds tokens that ran before a preemption."""
PIXELS = 1500
"""Across the time axis: what is narrower than one of them is drawn together."""
THIN, THICK = 0.36, 0.88
"""Height of a bar of one token and of the longest chunk, in rows."""


@dataclass(frozen=True)
class Column:
    """A step, or several that share a pixel; times since the first step."""

    begin: float
    end: float
    steps: tuple[TimelineStep, ...]
    kinds: tuple[tuple[str, ...], ...]
    """Of each chunk of each step, as in `KINDS`."""

    @property
    def chunks(self) -> Iterator[tuple[TimelineChunk, str]]:
        for step, kinds in zip(self.steps, self.kinds, strict=True):
            yield from zip(step.chunks, kinds, strict=True)


@dataclass(frozen=True)
class Bar:
    """A rectangle of the picture."""

    begin: float
    end: float
    low: float
    high: float

    @property
    def corners(self) -> list[tuple[float, float]]:
        return [
            (self.begin, self.low),
            (self.begin, self.high),
            (self.end, self.high),
            (self.end, self.low),
        ]


class Rows:
    """What is drawn in the rows of the sequences."""

    def __init__(self) -> None:
        self.bars: dict[str, list[Bar]] = defaultdict(list)
        """By kind, as in `KINDS`."""
        self.marks: dict[str, list[tuple[float, int]]] = defaultdict(list)
        """Time and row of what happened: two kinds of preemption, and `resumed`."""
        self.waits: list[list[tuple[float, int]]] = []
        """From each preemption to where the sequence goes on."""
        self._gave_way: dict[int, float] = {}

    def note_preempted(self, row: int, how: str, time: float) -> None:
        kind = "preempted, swapped out" if how == "swap" else "preempted, to recompute"
        self.marks[kind].append((time, row))
        self._gave_way[row] = time

    def note_run(self, row: int, time: float) -> None:
        """A chunk of the row ran: the first one after a preemption is marked."""
        since = self._gave_way.pop(row, None)
        if since is not None:
            self.marks["resumed"].append((time, row))
            self.waits.append([(since, row), (time, row)])


def make_columns(
    steps: tuple[TimelineStep, ...], spans: list[tuple[float, float]], scale: float
) -> list[Column]:
    """Steps side by side; those that together are narrower than a pixel become one column.

    Args:
        spans: begin and end of each step, in seconds since the first one.
        scale: what a second is in the columns' unit.
    """
    pixel = spans[-1][1] / PIXELS if spans else 0.0
    groups: list[list[int]] = []
    for number, (_, end) in enumerate(spans):
        if groups and end - spans[groups[-1][0]][0] <= pixel:
            groups[-1].append(number)
        else:
            groups.append([number])
    kinds = _kinds(steps)
    return [
        Column(
            begin=spans[group[0]][0] * scale,
            end=spans[group[-1]][1] * scale,
            steps=tuple(steps[number] for number in group),
            kinds=tuple(kinds[number] for number in group),
        )
        for group in groups
    ]


def lay_out(columns: list[Column], sequences: list[tuple[int, int]]) -> Rows:
    """Place each chunk and each preemption in its sequence's row."""
    place = {sequence: row for row, sequence in enumerate(sequences)}
    longest = max((chunk.length for column in columns for chunk, _ in column.chunks), default=1)
    rows = Rows()
    for column in columns:
        for step in column.steps:
            for request_id, index, how in step.preempted:
                if (request_id, index) in place:
                    rows.note_preempted(place[request_id, index], how, column.begin)
            for chunk in step.chunks:
                if (chunk.request_id, chunk.index) in place:
                    rows.note_run(place[chunk.request_id, chunk.index], column.begin)
        for (row, kind), length in _longest_chunks(column, place).items():
            half = (THIN + (THICK - THIN) * (length - 1) / max(longest - 1, 1)) / 2
            rows.bars[kind].append(Bar(column.begin, column.end, row - half, row + half))
    return rows


def _kinds(steps: tuple[TimelineStep, ...]) -> list[tuple[str, ...]]:
    """How each chunk of each step is coloured: tokens that ran before are `prefill again`."""
    computed: dict[tuple[int, int], int] = defaultdict(int)
    kinds: list[tuple[str, ...]] = []
    for step in steps:
        kinds.append(
            tuple(
                "prefill again" if c.start_token < computed[c.request_id, c.index] else c.kind
                for c in step.chunks
            )
        )
        for c in step.chunks:
            sequence = c.request_id, c.index
            computed[sequence] = max(computed[sequence], c.start_token + c.length)
    return kinds


def _longest_chunks(
    column: Column, place: dict[tuple[int, int], int]
) -> dict[tuple[int, str], int]:
    """Tokens of the longest chunk of each row and kind."""
    longest: dict[tuple[int, str], int] = {}
    for chunk, kind in column.chunks:
        row = place.get((chunk.request_id, chunk.index))
        if row is not None:
            longest[row, kind] = max(chunk.length, longest.get((row, kind), 0))
    return longest
