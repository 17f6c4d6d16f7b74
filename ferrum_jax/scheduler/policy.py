"""Scheduling policies by the names that `EngineConfig.policy` takes."""

from __future__ import annotations

from collections.abc import Callable

from ferrum_jax.interfaces import SchedulingPolicy
from ferrum_jax.scheduler.fair_share import FairSharePolicy
from ferrum_jax.scheduler.fcfs import FCFSPolicy
from ferrum_jax.scheduler.priority import PriorityPolicy
from ferrum_jax.scheduler.round_robin import RoundRobinPolicy
from ferrum_jax.scheduler.sjf import SJFPolicy
from ferrum_jax.types import EngineConfig

_POLICIES: dict[str, Callable[[EngineConfig], SchedulingPolicy]] = {
    "fcfs": lambda engine: FCFSPolicy(),
    "priority": lambda engine: PriorityPolicy(engine.ageing),
    "fair_share": lambda engine: FairSharePolicy(dict(engine.client_weights)),
    "sjf": lambda engine: SJFPolicy(engine.ageing),
    "round_robin": lambda engine: RoundRobinPolicy(engine.quantum),
}


def make_policy(engine: EngineConfig) -> SchedulingPolicy:
    """A new policy, as the engine's settings name it."""
    return _POLICIES[engine.policy](engine)
