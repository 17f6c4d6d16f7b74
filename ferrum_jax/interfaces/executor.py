"""Runs schedules on a device."""

from __future__ import annotations

from typing import Protocol

from ferrum_jax.types import Schedule, StepOutput, StepShape


class ModelExecutor(Protocol):
    """Owns the weights, the cache and the sampling state, and runs the jitted step."""

    def execute(self, schedule: Schedule) -> StepOutput:
        """Dispatch one step; returns device arrays without waiting for them."""
        ...

    def warm_up(self, shapes: tuple[StepShape, ...] | None = None) -> None:
        """Compile declared shapes in parallel; None: all of them."""
        ...

    @property
    def compilations(self) -> dict[StepShape, float]:
        """Seconds that each compiled shape took."""
        ...
