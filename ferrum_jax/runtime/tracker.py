"""The engine's account of one request: its sequences, what they have produced, its times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ferrum_jax.runtime.completion import CompletionBuilder
from ferrum_jax.runtime.taps.capture import CaptureBuffer
from ferrum_jax.types import (
    Logprob,
    Metrics,
    Request,
    RequestOutput,
    ScheduledChunk,
    Snapshot,
)


@dataclass
class HostLogprobs:
    """`TokenLogprobs` on the host, as numpy."""

    chosen: np.ndarray
    rank: np.ndarray
    top_ids: np.ndarray
    top: np.ndarray
    given: np.ndarray
    given_rank: np.ndarray

    def table(
        self, row: int, token: int, count: int, given: Sequence[int] = ()
    ) -> dict[int, Logprob]:
        """The entries of the token, of the `count` likeliest and of the ids `given`."""
        entries = {
            int(i): Logprob(float(p), rank + 1)
            for rank, (i, p) in enumerate(
                zip(self.top_ids[row, :count], self.top[row, :count], strict=True)
            )
        }
        entries.setdefault(token, Logprob(float(self.chosen[row]), int(self.rank[row])))
        for i, one in enumerate(given):
            found = Logprob(float(self.given[row, i]), int(self.given_rank[row, i]))
            entries.setdefault(one, found)
        return entries


@dataclass
class PromptScores:
    """Logprobs of a prompt's tokens, filled in chunk by chunk; row 0 stays nan."""

    token_ids: tuple[int, ...]
    count: int
    """Alternatives per token."""
    given: tuple[int, ...] = ()
    """Ids whose logprobs are wanted at every token."""

    @classmethod
    def of(cls, request: Request) -> PromptScores | None:
        """What a request wants; None where it wants no logprobs of its prompt."""
        params, tokens = request.params, request.prompt_token_ids
        if params.prompt_logprobs is None:
            return None
        return cls(tokens, params.prompt_logprobs, params.logprob_token_ids)

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        self.chosen = np.full(length, np.nan, np.float32)
        self.rank = np.zeros(length, np.int32)
        self.top_ids = np.zeros((length, self.count), np.int32)
        self.top = np.zeros((length, self.count), np.float32)
        self.at_given = np.zeros((length, len(self.given)), np.float32)
        self.given_rank = np.zeros((length, len(self.given)), np.int32)

    def fill(self, chunk: ScheduledChunk, flat_start: int, scores: HostLogprobs) -> None:
        """Take a chunk's share of a step's scores: position p's are those of token p + 1."""
        stop = min(chunk.start + chunk.length, len(self.token_ids) - 1)
        count = stop - chunk.start
        if count <= 0:
            return
        source = slice(flat_start, flat_start + count)
        target = slice(chunk.start + 1, stop + 1)
        self.chosen[target] = scores.chosen[source]
        self.rank[target] = scores.rank[source]
        self.top_ids[target] = scores.top_ids[source, : self.count]
        self.top[target] = scores.top[source, : self.count]
        self.at_given[target] = scores.given[source, : len(self.given)]
        self.given_rank[target] = scores.given_rank[source, : len(self.given)]

    def tables(self) -> list[dict[int, Logprob] | None]:
        host = HostLogprobs(
            self.chosen, self.rank, self.top_ids, self.top, self.at_given, self.given_rank
        )
        return [None] + [
            host.table(i, token, self.count, self.given)
            for i, token in enumerate(self.token_ids)
            if i > 0
        ]


@dataclass
class RequestTracker:
    """All that belongs to one request until it is handed back."""

    request: Request
    builders: list[CompletionBuilder]
    prompt_scores: PromptScores | None
    captured: CaptureBuffer | None = None
    """What the request's taps capture; None where they capture nothing."""
    keeps: bool = False
    """Whether a completion that ends for its length leaves a snapshot."""
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    """By completion."""
    first_scheduled: float | None = None
    ended: float | None = None
    num_drafted: int = 0
    num_accepted: int = 0
    error: str | None = None
    unfinished: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.unfinished = {builder.sequence.index for builder in self.builders}

    def note_scheduled(self) -> None:
        if self.first_scheduled is None:
            self.first_scheduled = time.monotonic()

    def note_draft(self, drafted: int, accepted: int) -> None:
        """A draft of a completion was verified."""
        self.num_drafted += drafted
        self.num_accepted += accepted

    def fail(self, message: str) -> None:
        """Note why the request failed; its other sequences go on."""
        self.error = message

    @property
    def watched(self) -> bool:
        """Whether its steps bring more than tokens."""
        return self.prompt_scores is not None or self.captured is not None

    @property
    def finished(self) -> bool:
        return not self.unfinished

    def metrics(self) -> Metrics:
        """The times and counts so far; the request ended when this was first asked after its end.

        The engine asks at the end of each request, however late its output is taken.
        """
        if self.finished and self.ended is None:
            self.ended = time.monotonic()
        request, sequences = self.request, [builder.sequence for builder in self.builders]
        return Metrics(
            arrival=request.arrival,
            first_scheduled=self.first_scheduled,
            first_token=min(
                (b.token_times[0] for b in self.builders if b.token_times), default=None
            ),
            finished=self.ended,
            token_times=tuple(self.builders[0].token_times),
            num_preemptions=sum(sequence.num_preemptions for sequence in sequences),
            num_swaps=sum(sequence.num_swaps for sequence in sequences),
            cached_tokens=sum(sequence.num_cached for sequence in sequences),
            prompt_tokens=len(request.prompt_token_ids),
            generated_tokens=sum(builder.num_tokens for builder in self.builders),
            drafted_tokens=self.num_drafted,
            accepted_tokens=self.num_accepted,
        )

    def output(self) -> RequestOutput:
        request = self.request
        wanted = request.params.prompt_logprobs is not None and not request.score_only
        return RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=list(request.prompt_token_ids),
            outputs=[] if request.score_only else [b.build() for b in self.builders],
            prompt_logprobs=self.prompt_scores.tables()
            if wanted and self.prompt_scores is not None
            else None,
            metrics=self.metrics(),
            error=self.error,
        )
