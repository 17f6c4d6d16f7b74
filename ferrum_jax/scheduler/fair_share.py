"""Clients share the engine by their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ferrum_jax.scheduler.fcfs import FCFSPolicy, age
from ferrum_jax.types import ScheduledChunk, Sequence

MAX_CLIENTS = 10_000
"""Accounts kept; beyond that half of them are forgotten."""


class FairSharePolicy(FCFSPolicy):
    """The client that was served least for its weight goes first; the one served most gives way.

    Service is counted in tokens computed, divided by the client's weight: a prompt when it starts,
    the others as they run. A client that comes back to the line starts level with who was let in
    last, so idling saves up nothing. (Virtual token counters, Sheng et al. 2024, "Fairness in
    serving large language models".)
    """

    def __init__(self, weights: Mapping[str, float]):
        self._weights = dict(weights)
        self._served: dict[str, float] = {}
        self._now = 0.0

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        return age(sequence)

    def group(self, sequence: Sequence) -> str:
        return sequence.request.client

    def group_rank(self, group: str) -> float:
        return self._served.get(group, self._now)

    def join(self, sequence: Sequence) -> None:
        client = sequence.request.client
        self._served[client] = max(self._served.get(client, 0.0), self._now)

    def admit(self, sequence: Sequence) -> None:
        self._now = max(self._now, self.group_rank(sequence.request.client))

    def serve(self, chunks: Iterable[ScheduledChunk]) -> None:
        tokens: dict[str, int] = {}
        for chunk in chunks:
            client = chunk.sequence.request.client
            tokens[client] = tokens.get(client, 0) + chunk.length
        for client, count in tokens.items():
            served = self._served.get(client, self._now)
            self._served[client] = served + count / self._weights.get(client, 1.0)
        if len(self._served) > MAX_CLIENTS:
            # Those nearest to the level at which a new client starts lose least by being forgotten.
            most = sorted(self._served.items(), key=lambda item: -item[1])
            self._served = dict(most[: MAX_CLIENTS // 2])
