"""The more urgent first, and nobody starves."""

from __future__ import annotations

from ferrum_jax.scheduler.fcfs import FCFSPolicy, age
from ferrum_jax.types import Sequence


class PriorityPolicy(FCFSPolicy):
    """Four levels with ageing: `ageing` seconds of waiting are worth one level.

    A level counts as an earlier arrival: a request of level p that came at time a stands where one
    of level 0 stands that came at a - p x ageing. So the order of two requests never changes while
    they wait, and none is overtaken by requests that come more than 3 x ageing seconds later.
    """

    def __init__(self, ageing: float):
        self._ageing = ageing

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        arrival, *ties = age(sequence)
        return (arrival - sequence.priority * self._ageing, *ties)
