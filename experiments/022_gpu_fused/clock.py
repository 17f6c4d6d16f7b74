"""Device time: a loop on the device, long enough that its start does not count; the median."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from config import Plan

SHORTEST = 2e-6
"""Seconds below which a GPU starts no kernel after another."""


def seconds_per_call(
    step: Callable[[Any], Any], state: Any, *, estimate: float, plan: Plan
) -> float:
    """Seconds of `state = step(state)`, many times in one program.

    Args:
        estimate: seconds that a call takes at the least; they tell how often it runs.
    """
    count = min(1000, max(2, int(plan.long_enough / max(estimate, SHORTEST))))
    # A static count: the device then asks nobody whether to go on. Donated: nothing is copied.
    loop = jax.jit(
        lambda state: jax.lax.fori_loop(0, count, lambda _, x: step(x), state), donate_argnums=0
    )

    def timed(state: Any) -> tuple[Any, float]:
        start = time.perf_counter()
        state = jax.block_until_ready(loop(state))
        return state, (time.perf_counter() - start) / count

    state, _ = timed(jax.tree.map(jnp.copy, state))
    taken = []
    while not taken or (len(taken) < plan.repeats and sum(taken) * count < plan.longest):
        state, seconds = timed(state)
        taken.append(seconds)
    return statistics.median(taken)


def copy_bandwidth(plan: Plan) -> float:
    """Bytes per second, read and written, of copying an array that no cache holds."""
    x = jnp.zeros(plan.copy_bytes // 4, jnp.float32)
    seconds = seconds_per_call(lambda x: x + 1, x, estimate=2 * x.nbytes / 5e12, plan=plan)
    return 2 * x.nbytes / seconds


def matmul_rate(plan: Plan) -> float:
    """Floating-point operations per second of a square product in bfloat16."""
    size = plan.matmul_size
    w = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16) * size**-0.5
    flops = 2 * size**3
    state = w, w
    seconds = seconds_per_call(
        lambda state: (state[0] @ state[1], state[1]), state, estimate=flops / 1e15, plan=plan
    )
    return flops / seconds
