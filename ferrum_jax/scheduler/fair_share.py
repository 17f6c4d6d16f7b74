"""Clients share the engine by their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ferrum_jax.scheduler.fcfs import FCFSPolicy, age
from ferrum_jax.types import ScheduledChunk, Sequence

MAX_CLIENTS = 10_000
"""Accounts kept before those that no longer matter are dropped."""


class FairSharePolicy(FCFSPolicy):
    """The client that was served least for its weight goes first; the one served most gives way.

    Service is counted in tokens computed, divided by the client's weight. A client that was idle
    starts level with whoever is served now (start-time fair queueing, Goyal et al. 1996): idling
    saves up nothing.
    """

    def __init__(self, weights: Mapping[str, float]):
        self._weights = dict(weights)
        self._served: dict[str, float] = {}
        self._now, self._limit = 0.0, MAX_CLIENTS

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        return age(sequence)

    def group(self, sequence: Sequence) -> str:
        return sequence.request.client

    def group_rank(self, group: str) -> float:
        return self._served.get(group, self._now)

    def join(self, sequence: Sequence) -> None:
        client = sequence.request.client
        self._served[client] = max(self._served.get(client, 0.0), self._now)

    def serve(self, chunks: Iterable[ScheduledChunk]) -> None:
        tokens: dict[str, int] = {}
        for chunk in chunks:
            client = chunk.sequence.request.client
            tokens[client] = tokens.get(client, 0) + chunk.length
        if not tokens:
            return
        for client, count in tokens.items():
            served = self._served.get(client, self._now)
            self._served[client] = served + count / self._weights.get(client, 1.0)
        self._now = max(self._now, min(self._served[client] for client in tokens))
        if len(self._served) > self._limit:
            # A client at or below the present level would be raised to it when it comes back.
            self._served = {c: s for c, s in self._served.items() if s > self._now or c in tokens}
            self._limit = max(MAX_CLIENTS, 2 * len(self._served))
