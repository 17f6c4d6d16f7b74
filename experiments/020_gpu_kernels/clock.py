"""Device time: a loop on the device, long enough that its start does not count; the median."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from config import Plan


def seconds_per_call(step: Callable[..., Any], state: Any, *rest: Any, plan: Plan) -> float:
    """Seconds of `state = step(state, *rest)`, many times in one program."""

    def looped(count: int) -> Callable[..., Any]:
        # A static count: the device then asks nobody whether to go on.
        return jax.jit(
            lambda state, *rest: jax.lax.fori_loop(0, count, lambda _, x: step(x, *rest), state)
        )

    def timed(run: Callable[..., Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(state, *rest))
        return time.perf_counter() - start

    few = looped(2)
    timed(few)
    count = min(1000, max(2, int(plan.long_enough / max(timed(few) / 2, 1e-6))))
    if count == 2:
        return statistics.median(timed(few) / 2 for _ in range(plan.repeats))
    many = looped(count)
    timed(many)
    return statistics.median(timed(many) / count for _ in range(plan.repeats))


def copy_bandwidth(plan: Plan) -> float:
    """Bytes per second, read and written, of copying an array that no cache holds."""
    x = jnp.zeros(plan.copy_bytes // 4, jnp.float32)
    seconds = seconds_per_call(lambda x: x + 1, x, plan=plan)
    return 2 * x.nbytes / seconds


def matmul_rate(plan: Plan) -> float:
    """Floating-point operations per second of a square product in bfloat16."""
    size = plan.matmul_size
    w = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16) * size**-0.5
    seconds = seconds_per_call(lambda x, w: x @ w, w, w, plan=plan)
    return 2 * size**3 / seconds
