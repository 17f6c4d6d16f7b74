"""Records what each step of an engine ran: as data, as a trace, as a picture."""

from __future__ import annotations

import json
from collections import deque
from os import PathLike
from typing import TYPE_CHECKING, Any

from ferrum_jax.runtime.timeline.steps import (
    TimelineChunk,
    TimelinePreemption,
    TimelineStep,
)
from ferrum_jax.runtime.timeline.trace import trace_events
from ferrum_jax.types import ConfigError, Schedule, ScheduledChunk

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
            "traceEvents": trace_events(self.steps),
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
        from ferrum_jax.runtime.timeline.plot import plot_steps

        dropped = f"only the last {self.max_steps:,} steps were kept" if self.truncated else ""
        return plot_steps(self.steps, path, max_rows=max_requests, note=dropped)


def _chunk(chunk: ScheduledChunk) -> TimelineChunk:
    request, start, length = chunk.sequence.request, chunk.start, chunk.length
    decodes = length == 1 and start >= len(request.prompt_token_ids)
    return TimelineChunk(
        request.request_id, chunk.sequence.index, start, length, "decode" if decodes else "prefill"
    )
