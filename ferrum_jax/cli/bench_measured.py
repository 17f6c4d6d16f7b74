"""A time beside the shortest possible one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ferrum_jax.cli.bench_costs import Cost
from ferrum_jax.cli.bench_limits import Limits


@dataclass(frozen=True)
class Measured:
    """What was timed, over several rounds, and how close it came to the machine's limit."""

    name: str
    batch: int
    tokens: int
    """processed by what was timed"""
    seconds: float
    limit_seconds: float
    fraction: float
    """of the limit reached; above 1 where the weights stay in the processor's cache"""
    bound: str
    """the limit that binds: memory or matmul"""
    bytes: float
    flops: float
    bandwidth_fraction: float
    """bytes that had to be read, per second, over the read limit"""
    host_seconds: float | None = None
    """per step, not waiting for the device"""
    dispatch_seconds: float | None = None
    """of that, in `Executor.execute`"""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def summarise(
    name: str,
    batch: int,
    tokens: int,
    cost: Cost,
    pairs: Sequence[tuple[Limits, float]],
    host: float | None = None,
    dispatch: float | None = None,
) -> Measured:
    """Medians over rounds of (limits, seconds); fractions are taken within a round."""
    median = statistics.median
    return Measured(
        name=name,
        batch=batch,
        tokens=tokens,
        seconds=median(seconds for _, seconds in pairs),
        limit_seconds=median(limits.seconds(cost) for limits, _ in pairs),
        fraction=median(limits.seconds(cost) / seconds for limits, seconds in pairs),
        bound=statistics.mode(limits.binding(cost) for limits, _ in pairs),
        bytes=cost.bytes,
        flops=cost.flops,
        bandwidth_fraction=median(cost.bytes / s / limits.read_rate for limits, s in pairs),
        host_seconds=host,
        dispatch_seconds=dispatch,
    )
