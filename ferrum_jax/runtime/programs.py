"""The compiled programs of an executor's step, a program per shape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from ferrum_jax.types import StepShape

AT_ONCE = 4
"""Programs that are made side by side."""


class Recipe(NamedTuple):
    """What makes a program, in a thread: it must not look at what a running step changes."""

    lower: Callable[[], Any]
    """traces the step and lowers it"""
    options: dict[str, Any]
    """the compiler's"""


class Programs:
    """Makes each shape's program once, in threads.

    What a step will need next is made behind what it needs now, and the step does not wait for it:
    a first token comes before the programs of the tokens after it are there.
    """

    def __init__(self, prepare: Callable[[StepShape], Recipe]):
        """Args:
        prepare: what makes a shape's program; called where the program is asked for.
        """
        self._prepare = prepare
        self._futures: dict[StepShape, Future[Callable[..., Any]]] = {}
        self._seconds: dict[StepShape, float] = {}

    def of(
        self, shape: StepShape, following: Callable[[], Iterable[StepShape]] = tuple
    ) -> Callable[..., Any]:
        """A shape's program; where it has to be made, the following ones are begun behind it."""
        if shape not in self._futures:
            self._begin((shape, *following()))
        try:
            return self._futures[shape].result()
        except Exception:
            del self._futures[shape]  # To be tried again.
            raise

    def make(self, shapes: Iterable[StepShape]) -> None:
        """Make the programs of several shapes; returns when all are there."""
        shapes = tuple(shapes)
        self._begin(shapes)
        for shape in shapes:
            self.of(shape)

    @property
    def seconds(self) -> dict[StepShape, float]:
        """What tracing and compiling took, of every shape; waits for those that are being made."""
        wait(tuple(self._futures.values()))
        return dict(self._seconds)

    def _begin(self, shapes: Iterable[StepShape]) -> None:
        wanted = [shape for shape in dict.fromkeys(shapes) if shape not in self._futures]
        first_is_lowered = threading.Event()
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="compile")
        for shape in wanted:
            behind = None if shape is wanted[0] else first_is_lowered
            self._futures[shape] = pool.submit(
                self._make, shape, self._prepare(shape), behind, first_is_lowered
            )
        pool.shutdown(wait=False)

    def _make(
        self,
        shape: StepShape,
        recipe: Recipe,
        behind: threading.Event | None,
        lowered: threading.Event,
    ) -> Callable[..., Any]:
        """Tracing is Python's, one at a time; compiling is not, and runs beside it."""
        if behind is not None:
            behind.wait()
        start = time.monotonic()
        try:
            program = recipe.lower()
        finally:
            lowered.set()
        compiled = program.compile(compiler_options=recipe.options)
        self._seconds[shape] = time.monotonic() - start
        return compiled
