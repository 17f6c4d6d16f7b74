"""Scheduling policies by the names that `EngineConfig.policy` takes."""

from __future__ import annotations

from ferrum_jax.interfaces import SchedulingPolicy
from ferrum_jax.scheduler.fcfs import FCFSPolicy
from ferrum_jax.types import UnsupportedError

_POLICIES: dict[str, type[SchedulingPolicy]] = {"fcfs": FCFSPolicy}


def make_policy(name: str) -> SchedulingPolicy:
    """A new policy of that name.

    Raises:
        UnsupportedError: this version has none of that name.
    """
    if name not in _POLICIES:
        raise UnsupportedError(
            f"EngineConfig.policy = {name!r} is not supported in this version; "
            f"use {' or '.join(map(repr, _POLICIES))}"
        )
    return _POLICIES[name]()
