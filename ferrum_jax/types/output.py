"""What a caller gets back: plain Python and numpy, on the host."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ferrum_jax.types.request import FinishReason


@dataclass(frozen=True)
class Logprob:
    """A token's log-probability under the model (fp32) and its rank, 1 the likeliest."""

    logprob: float
    rank: int


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    """Per generated token its own entry and those of the k likeliest; None if not asked for."""
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    """The stop string or stop token id that ended the text; None for end-of-text and length."""
    seed: int | None = None
    """The seed that draws this completion again."""


@dataclass(frozen=True)
class Metrics:
    """Times of one request, in seconds on a monotonic clock."""

    arrival: float
    first_scheduled: float | None = None
    first_token: float | None = None
    finished: float | None = None
    num_preemptions: int = 0

    @property
    def time_to_first_token(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.arrival


@dataclass(frozen=True)
class RequestOutput:
    """A request and its completions."""

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[Completion]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """Per prompt token as in `Completion.logprobs`; the first is None: nothing precedes it."""
    metrics: Metrics = field(default_factory=lambda: Metrics(arrival=0.0))
    error: str | None = None
    """Why the request failed, when its finish reason is `error`."""


@dataclass(frozen=True)
class StreamDelta:
    """What one step added to one completion of a stream."""

    request_id: int
    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True)
class Score:
    """The log-likelihood of a text."""

    token_ids: list[int]
    logprobs: np.ndarray
    """float32 `[T]`: log p(token | the tokens before it); the first is nan."""

    @property
    def total(self) -> float:
        """Sum over all tokens but the first, in nats."""
        return float(np.sum(self.logprobs[1:], dtype=np.float64))
