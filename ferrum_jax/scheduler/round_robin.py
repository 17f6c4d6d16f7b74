"""Everybody in turn."""

from __future__ import annotations

from ferrum_jax.scheduler.fcfs import FCFSPolicy
from ferrum_jax.types import Sequence


class RoundRobinPolicy(FCFSPolicy):
    """A sequence generates `quantum` tokens, then goes to the end of the line if others wait.

    A turn always brings `quantum` tokens or the end, so everything ends. What a sequence had
    computed is computed anew at its next turn, or comes back from host memory under
    `preemption="swap"`, which suits this policy better.
    """

    takes_turns = True

    def __init__(self, quantum: int):
        self._quantum = quantum

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        return (sequence.queued,)

    def has_had_its_turn(self, sequence: Sequence) -> bool:
        return len(sequence.token_ids) - sequence.admitted_at >= self._quantum
