"""What this machine can do at best: read memory, multiply matrices. Measured, not looked up.

The read limit is the best of several ways of reading one large array once, because no single one
is the fastest everywhere: a jitted matrix-vector product and, on the CPU, an OR-reduction by as
many numpy threads as there are cores, over memory of numpy's (which may lie in huge pages) and
over memory of jax's (where the weights lie). The multiply limit is the best of a jitted square
product in fp32 and in the model's dtype, with results in fp32: of bfloat16 with results in it, XLA
makes a product of floats on some CPUs (349 in place of 908 Gflop/s). A `Limits` is one measurement
of both; a benchmark takes many, between its own steps, because shared machines change from second
to second.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ferrum_jax.cli.bench_costs import Cost

COLUMNS = 4096
"""Of the matrix that is read."""
LONG_ENOUGH = 0.02
"""Seconds that the square product shall take, so that its start does not count."""
REPEATS = 3


@dataclass(frozen=True)
class Limits:
    """One measurement of the machine, by the way it was measured."""

    read: dict[str, float]
    """bytes per second"""
    multiply: dict[str, float]
    """floating-point operations per second, by dtype"""

    @property
    def read_rate(self) -> float:
        return max(self.read.values())

    @property
    def multiply_rate(self) -> float:
        return max(self.multiply.values())

    def seconds(self, cost: Cost) -> float:
        """The shortest time that a step of this cost can take (a roofline)."""
        return max(cost.bytes / self.read_rate, cost.flops / self.multiply_rate)

    def binding(self, cost: Cost) -> str:
        """Which limit that is: `memory` or `matmul`."""
        memory = cost.bytes / self.read_rate >= cost.flops / self.multiply_rate
        return "memory" if memory else "matmul"


def median_limits(measured: Sequence[Limits]) -> Limits:
    """The median of each way over several measurements."""
    return Limits(
        read={key: statistics.median(m.read[key] for m in measured) for key in measured[0].read},
        multiply={
            key: statistics.median(m.multiply[key] for m in measured)
            for key in measured[0].multiply
        },
    )


class LimitMeter:
    """Holds the arrays and programs; `measure` may be called at any time.

    `history` keeps every measurement but the first, which compiles.
    """

    def __init__(self, platform: str, dtype: str, megabytes: int):
        rows = max(1, megabytes * 10**6 // (4 * COLUMNS))
        self._matrix = jnp.ones((rows, COLUMNS), jnp.float32)
        self._bytes = self._matrix.nbytes
        vector = jnp.ones((COLUMNS,), jnp.float32)
        product = jax.jit(jnp.dot)
        self._reads: dict[str, Callable[[], object]] = {
            "jax matvec": partial(_finish, product, self._matrix, vector)
        }
        if platform == "cpu":
            self._add_threads()
        self._multiplies = {name: _square(name, megabytes) for name in ("float32", dtype)}
        self.history: list[Limits] = []
        self.measure()
        self.history.clear()

    def _add_threads(self) -> None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        threads = threads or os.cpu_count() or 1
        pool = ThreadPoolExecutor(threads)
        own = np.ones(self._matrix.shape, np.float32)
        for name, array in (("numpy memory", own), ("jax memory", np.asarray(self._matrix))):
            words = array.reshape(-1).view(np.uint64)
            parts = np.array_split(words, threads)
            self._reads[f"{threads} threads, {name}"] = partial(_reduce, pool, parts)

    def measure(self) -> Limits:
        """The best of a few repetitions of every way."""
        limits = Limits(
            read={name: self._bytes / _best(read) for name, read in self._reads.items()},
            multiply={
                name: 2.0 * size**3 / _best(call) for name, (size, call) in self._multiplies.items()
            },
        )
        self.history.append(limits)
        return limits


def _square(dtype: str, megabytes: int) -> tuple[int, Callable[[], object]]:
    """A square product that takes long enough, or as large as the memory given allows."""
    product, size = jax.jit(partial(jnp.dot, preferred_element_type=jnp.float32)), 256
    while True:
        matrix = jnp.ones((size, size), dtype)
        call = partial(_finish, product, matrix, matrix)
        call()
        if _best(call) >= LONG_ENOUGH or 2 * matrix.nbytes > megabytes * 10**6 // 4:
            return size, call
        size *= 2


def _finish(function: Callable[..., jax.Array], *arguments: jax.Array) -> object:
    return function(*arguments).block_until_ready()


def _reduce(pool: ThreadPoolExecutor, parts: list[np.ndarray]) -> object:
    return list(pool.map(np.bitwise_or.reduce, parts))


def _best(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
