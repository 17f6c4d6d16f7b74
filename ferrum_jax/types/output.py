"""What a caller gets back: plain Python and numpy, on the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

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
    """What one request took; times in seconds on a monotonic clock, None where not reached."""

    arrival: float
    first_scheduled: float | None = None
    first_token: float | None = None
    """When the host read the first token of whichever completion came first."""
    finished: float | None = None
    token_times: tuple[float, ...] = ()
    """When the host read each token of completion 0."""
    num_preemptions: int = 0
    """Of all completions, `num_swaps` among them."""
    num_swaps: int = 0
    """Preemptions that moved pages to host memory in place of computing the tokens again."""
    cached_tokens: int = 0
    """Tokens taken over from cached or shared pages, not computed: the sum over completions."""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    """Of all completions."""
    drafted_tokens: int = 0
    """Tokens of drafts that were verified, of all completions."""
    accepted_tokens: int = 0
    """Those of them that were sampled too."""

    @property
    def queue_time(self) -> float | None:
        """Seconds from the arrival to the first step."""
        return _between(self.arrival, self.first_scheduled)

    @property
    def prefill_time(self) -> float | None:
        """Seconds from the first step to the first token."""
        return _between(self.first_scheduled, self.first_token)

    @property
    def decode_time(self) -> float | None:
        """Seconds from the first token to the end."""
        return _between(self.first_token, self.finished)

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the arrival to the first token."""
        return _between(self.arrival, self.first_token)

    @property
    def total_time(self) -> float | None:
        """Seconds from the arrival to the end."""
        return _between(self.arrival, self.finished)

    @property
    def inter_token_latencies(self) -> tuple[float, ...]:
        """Seconds between successive tokens of completion 0; one fewer than its tokens."""
        return tuple(after - before for before, after in pairwise(self.token_times))

    @property
    def mean_inter_token_latency(self) -> float | None:
        """Seconds; None with fewer than two tokens."""
        gaps = len(self.token_times) - 1
        return (self.token_times[-1] - self.token_times[0]) / gaps if gaps > 0 else None


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
    ranks: np.ndarray = field(repr=False)
    """int32 `[T]`: 1 + the number of tokens that were likelier; the first is 0."""

    @property
    def total(self) -> float:
        """Sum over all tokens but the first, in nats."""
        return float(np.sum(self.logprobs[1:], dtype=np.float64))


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
