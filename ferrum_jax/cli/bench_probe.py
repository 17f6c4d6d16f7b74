"""Looks into an engine's steps without changing what they compute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import jax

from ferrum_jax.runtime.engine import Engine
from ferrum_jax.types import Schedule, StepOutput


class Probe:
    """Stands before `Executor.execute`: sees the schedule, and waits for the step if asked to."""

    def __init__(self, execute):
        self._execute = execute
        self.lengths: tuple[int, ...] = ()
        self.waits = False
        self.waited = self.dispatched = 0.0

    def __call__(self, schedule: Schedule) -> StepOutput | None:
        start = time.perf_counter()
        output = self._execute(schedule)
        dispatched = time.perf_counter()
        self.lengths = schedule.columns.lengths
        if self.waits:
            jax.block_until_ready(output)
        self.dispatched, self.waited = dispatched - start, time.perf_counter() - dispatched
        return output

    def decodes(self, batch: int) -> bool:
        """Whether the last step was a decode step of the whole batch."""
        return self.lengths == (1,) * batch


@contextmanager
def probed(engine: Engine) -> Iterator[Probe]:
    """A probe around every step that the engine dispatches within."""
    probe = Probe(engine.executor.execute)
    with patch.object(engine.executor, "execute", probe):
        yield probe
