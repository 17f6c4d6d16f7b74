"""Runs schedules on a device."""

from __future__ import annotations

from typing import Protocol

from ferrum_jax.types import Schedule, Sequence, StepOutput, StepShape, Taps


class ModelExecutor(Protocol):
    """Owns the weights, the cache and the sampling state, and runs the jitted step."""

    def execute(self, schedule: Schedule) -> tuple[tuple[Schedule, StepOutput], ...]:
        """Dispatch one step: move pages, then run the chunks.

        Returns device arrays without waiting for them: one output for all chunks, or one for each
        part of the schedule that ran by itself; none where there is no chunk to run.
        """
        ...

    def expect(self, taps: Taps) -> None:
        """Such taps will come: programs that are compiled from now on serve them too."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """Drop what a sequence has in host memory."""
        ...

    def reset(self) -> None:
        """An empty cache and neutral slots, as at the start; what was running is lost."""
        ...

    def warm_up(self, shapes: tuple[StepShape, ...] | None = None) -> None:
        """Compile declared shapes in parallel; None: all of them."""
        ...

    @property
    def compilations(self) -> dict[StepShape, float]:
        """Seconds that each compiled shape took."""
        ...
