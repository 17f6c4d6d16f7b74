"""What each step of an engine ran: as data, as a trace for Perfetto, as a picture."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ferrum_jax.types import ConfigError, Schedule, ScheduledChunk

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


class Timeline:
    """The newest steps of an engine, at most `max_steps`; some 100 bytes a chunk.

    Raises:
        ConfigError: `max_steps` is below 1.
    """

    def __init__(self, max_steps: int = 100_000):
        if max_steps < 1:
            raise ConfigError(f"Timeline max_steps is {max_steps}; keep at least 1 step")
        self.max_steps = max_steps
        self.truncated = False
        """Whether steps were dropped, the oldest first."""
        self._steps: deque[TimelineStep] = deque(maxlen=max_steps)

    @property
    def steps(self) -> tuple[TimelineStep, ...]:
        """The steps, the oldest first."""
        return tuple(self._steps)

    def record(
        self,
        schedule: Schedule,
        start: float,
        end: float,
        num_running: int,
        num_waiting: int,
        used_pages: int,
    ) -> None:
        """Take in a step: dispatched at `start`, read at `end`, in seconds."""
        self.truncated = self.truncated or len(self._steps) == self.max_steps
        swapped = {sequence for sequence, _ in schedule.swapped_out}
        self._steps.append(
            TimelineStep(
                start=start,
                end=end,
                chunks=tuple(_chunk(chunk) for chunk in schedule.chunks),
                preempted=tuple(
                    TimelinePreemption(
                        sequence.request.request_id,
                        sequence.index,
                        "swap" if sequence in swapped else "recompute",
                    )
                    for sequence in schedule.preempted
                ),
                copies=len(schedule.copies),
                num_running=num_running,
                num_waiting=num_waiting,
                used_pages=used_pages,
            )
        )

    def events(self) -> list[dict[str, Any]]:
        """The steps as plain data: dicts, lists, numbers and strings."""
        return [step.event() for step in self._steps]

    def to_chrome_trace(self, path: str | PathLike[str]) -> None:
        """Write a JSON file for https://ui.perfetto.dev or chrome://tracing.

        It shows one track for the steps and one for each sequence, with times in microseconds since
        the first step. A step begins no earlier than the one before it ends (see `device_spans`).
        """
        trace = {
            "traceEvents": _trace_events(self.steps),
            "displayTimeUnit": "ms",
            "otherData": {"truncated": self.truncated, "max_steps": self.max_steps},
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(trace, file)

    def plot(self, path: str | PathLike[str] | None = None, *, max_requests: int = 60) -> Figure:
        """Draw the steps: a row for each sequence, then tokens, pages and sequences per step.

        Where many steps share a pixel they are drawn as one. No display is needed.

        Args:
            path: where to save the picture; its ending names the format.
            max_requests: rows at most, those that ran first.

        Raises:
            ConfigError: `max_requests` is below 1.
            UnsupportedError: matplotlib is not installed.
        """
        if max_requests < 1:
            raise ConfigError(f"Timeline.plot max_requests is {max_requests}; draw at least 1")
        from ferrum_jax.runtime.timeline_plot import plot_steps

        dropped = f"only the last {self.max_steps:,} steps were kept" if self.truncated else ""
        return plot_steps(self.steps, path, max_rows=max_requests, note=dropped)


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


def _chunk(chunk: ScheduledChunk) -> TimelineChunk:
    request, start, length = chunk.sequence.request, chunk.start, chunk.length
    decodes = length == 1 and start >= len(request.prompt_token_ids)
    return TimelineChunk(
        request.request_id, chunk.sequence.index, start, length, "decode" if decodes else "prefill"
    )


_STEPS, _SEQUENCES = 1, 2  # Processes of the trace: each is a group of tracks.


def _trace_events(steps: tuple[TimelineStep, ...]) -> list[dict[str, Any]]:
    threads = {sequence: row for row, sequence in enumerate(sequence_order(steps), 1)}
    events = [
        _named("process_name", "engine", _STEPS),
        _named("process_name", "sequences", _SEQUENCES),
        _named("thread_name", "steps", _STEPS, 1),
        *(
            _named("thread_name", f"request {sequence_label(*sequence)}", _SEQUENCES, row)
            for sequence, row in threads.items()
        ),
    ]
    for number, (step, span) in enumerate(zip(steps, device_spans(steps), strict=True)):
        begin, duration = 1e6 * span[0], 1e6 * (span[1] - span[0])
        events += _step_events(step, number, begin, duration)
        for chunk in step.chunks:
            arguments = {"start_token": chunk.start_token, "tokens": chunk.length, "step": number}
            thread = threads[chunk.request_id, chunk.index]
            events.append(_complete(chunk.kind, _SEQUENCES, thread, begin, duration, arguments))
        for request_id, index, how in step.preempted:
            name, thread = f"preempted ({how})", threads[request_id, index]
            events.append(
                {"name": name, "ph": "i", "s": "t", "ts": begin, "pid": _SEQUENCES, "tid": thread}
            )
    return events


def _step_events(
    step: TimelineStep, number: int, begin: float, duration: float
) -> list[dict[str, Any]]:
    tokens = {"prefill": 0, "decode": 0}
    for chunk in step.chunks:
        tokens[chunk.kind] += chunk.length
    arguments = {"rows": len(step.chunks), "tokens": sum(tokens.values()), "copies": step.copies}
    sequences = {"running": step.num_running, "waiting": step.num_waiting}
    return [
        _complete(f"step {number}", _STEPS, 1, begin, duration, arguments),
        _counter("tokens", begin, tokens),
        _counter("pages in use", begin, {"pages": step.used_pages}),
        _counter("sequences", begin, sequences),
    ]


def _named(what: str, name: str, process: int, thread: int = 0) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _complete(
    name: str, process: int, thread: int, begin: float, duration: float, arguments: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name, "ph": "X", "ts": begin, "dur": duration, "pid": process, "tid": thread,
        "args": arguments,
    }  # fmt: skip


def _counter(name: str, begin: float, values: dict[str, int]) -> dict[str, Any]:
    return {"name": name, "ph": "C", "ts": begin, "pid": _STEPS, "args": values}
