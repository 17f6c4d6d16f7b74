"""Shortest job first."""

from __future__ import annotations

from ferrum_jax.scheduler.fcfs import FCFSPolicy, age
from ferrum_jax.types import Sequence

TOKENS_PER_AGEING = 1000
"""Tokens of work that `ageing` seconds of waiting make up for."""


class SJFPolicy(FCFSPolicy):
    """The sequence with the least work left goes first, the one with the most gives way.

    Work is the tokens still to be computed and those that may still be generated; what a model
    will write is not known, so the limit stands for it. As under `priority`, waiting counts:
    `ageing` seconds make up for 1,000 tokens, so long jobs do not starve under a stream of short
    ones.
    """

    def __init__(self, ageing: float):
        self._seconds_per_token = ageing / TOKENS_PER_AGEING

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        arrival, *ties = age(sequence)
        work = sequence.max_len - sequence.num_scheduled
        return (arrival + work * self._seconds_per_token, *ties)
