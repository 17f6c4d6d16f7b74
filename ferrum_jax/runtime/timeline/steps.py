"""What a timeline keeps of each step, as plain data, and what follows from several of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class TimelineChunk(NamedTuple):
    """The tokens of one sequence in a step."""

    request_id: int
    index: int
    """Which of the request's completions."""
    start_token: int
    """Position of the first token."""
    length: int
    """Tokens."""
    kind: Literal["prefill", "decode"]
    """`decode`: a single token behind the prompt."""


class TimelinePreemption(NamedTuple):
    """A sequence that gave way, and what becomes of its tokens."""

    request_id: int
    index: int
    how: Literal["recompute", "swap"]


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """One step; times in seconds on the clock that the engine reads."""

    start: float
    end: float
    chunks: tuple[TimelineChunk, ...]
    preempted: tuple[TimelinePreemption, ...]
    copies: int
    """Shared pages that were copied."""
    num_running: int
    num_waiting: int
    used_pages: int
    """KV pages in use."""

    def event(self) -> dict[str, Any]:
        """The step as plain data, ready for JSON."""
        return {
            "start": self.start,
            "end": self.end,
            "chunks": [chunk._asdict() for chunk in self.chunks],
            "preempted": [preemption._asdict() for preemption in self.preempted],
            "copies": self.copies,
            "num_running": self.num_running,
            "num_waiting": self.num_waiting,
            "used_pages": self.used_pages,
        }


def sequence_label(request_id: int, index: int) -> str:
    """`3` for the first completion of request 3, `3.1` for its second."""
    return f"{request_id}.{index}" if index else str(request_id)


def sequence_order(steps: tuple[TimelineStep, ...]) -> list[tuple[int, int]]:
    """The sequences, each as request and index, in the order in which they first ran."""
    order: dict[tuple[int, int], None] = {}
    for step in steps:
        order.update(dict.fromkeys((item.request_id, item.index) for item in step.preempted))
        order.update(dict.fromkeys((chunk.request_id, chunk.index) for chunk in step.chunks))
    return list(order)


def device_spans(steps: tuple[TimelineStep, ...]) -> list[tuple[float, float]]:
    """When the device worked on each step, in seconds since the first one started.

    A host that runs ahead dispatches a step while the one before still runs; the device takes it up
    when that one has ended.
    """
    spans: list[tuple[float, float]] = []
    free = origin = steps[0].start if steps else 0.0
    for step in steps:
        begin = max(step.start, free)
        free = max(step.end, begin)
        spans.append((begin - origin, free - origin))
    return spans
