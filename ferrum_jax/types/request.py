"""A request, the sequences that it becomes, and the states that they pass through."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from ferrum_jax.types.cache import BlockTable
from ferrum_jax.types.sampling import SamplingParams
from ferrum_jax.types.taps import Taps


class Priority(IntEnum):
    """How urgent a request is, for policies that ask."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


class RequestState(StrEnum):
    """Where a sequence stands."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


class FinishReason(StrEnum):
    """Why a sequence ended; equal to its string."""

    STOP = "stop"
    """An end-of-text token, a stop token or a stop string."""
    LENGTH = "length"
    """`max_tokens` or `max_model_len`."""
    ABORT = "abort"
    TIMEOUT = "timeout"
    """The request's deadline passed."""
    ERROR = "error"


@dataclass(frozen=True)
class Request:
    """What a caller asks for: a prompt as token ids, and how to continue it."""

    request_id: int
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    prompt: str | None = None
    priority: Priority = Priority.NORMAL
    client: str = ""
    """Whom the work is for: the fair-share policy divides the engine between clients."""
    deadline: float | None = None
    """When the request ends as `FinishReason.TIMEOUT`, in seconds on the clock of `arrival`."""
    cache_salt: str = ""
    """Cached pages are shared between requests of one salt only."""
    score_only: bool = False
    """Run the prompt and generate nothing."""
    taps: Taps | None = field(default=None, compare=False, repr=False)
    """What is captured of it and edited in it."""
    edits_digest: str = ""
    """Of all that its edits are; empty without edits."""
    arrival: float = field(default_factory=time.monotonic)
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    """The token ids of every spelling of `params.bad_words`."""
    end_ids: tuple[int, ...] = ()
    """Token ids that end its completions."""
    score_from: int = 1
    """The first prompt token whose logprob is wanted, where logprobs of the prompt are."""

    @property
    def prefix_salt(self) -> str:
        """Cached pages are shared between requests of one cache salt and the same edits only."""
        return f"{self.edits_digest}\0{self.cache_salt}" if self.edits_digest else self.cache_salt

    def num_shareable(self, known: int) -> int:
        """How many of `known` leading tokens need not run where their pages are there already."""
        if self.taps is not None and self.taps.capture:
            return 0
        # A token's logprob comes from the run of the token before it.
        return known if self.params.prompt_logprobs is None else min(known, self.score_from - 1)


@dataclass(eq=False, slots=True)
class Sequence:
    """One running continuation of a request: host state, owned by the engine.

    `num_scheduled` counts the tokens whose keys and values are, or will be once the steps already
    dispatched have run, in the cache. It may exceed what the host knows of `token_ids`: the tokens
    in between are `num_pending`, sampled on the device and on their way.
    """

    request: Request
    index: int
    """Which of the request's `n` completions this is."""
    max_len: int
    """Tokens at which the sequence ends for its length."""
    seed: int = 0
    """Of the random stream that the sequence samples from, together with its index."""
    token_ids: list[int] = field(default_factory=list)
    state: RequestState = RequestState.WAITING
    blocks: BlockTable = field(default_factory=BlockTable)
    slot: int | None = None
    num_scheduled: int = 0
    num_pending: int = 0
    num_cached: int = 0
    """Tokens whose keys and values were taken over from cached or shared pages, not computed."""
    num_preemptions: int = 0
    num_swaps: int = 0
    """How many of them moved its pages to host memory."""
    queued: int = 0
    """Its place in line: raised whenever it starts to wait."""
    admitted_at: int = 0
    """Tokens that were known when it last got its slot."""
    swapped: bool = False
    """Whether its first `num_scheduled` tokens lie in host memory, to be copied back."""
    priority: Priority = Priority.NORMAL
    """The request's, until `update_priority` changes it."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    settles: bool = False
    """Whether it goes on only when all of its tokens are known: the host has a say in the next."""
    single_steps: bool = False
    """Whether the host is to read each of its tokens before the one after the next is computed."""
    draft: tuple[int, ...] = ()
    """What the next step may guess to follow."""
    num_drafted: int = 0
    """Tokens of the draft that is being verified; `num_scheduled` counts them."""
    mirostat_mus: list[float] = field(default_factory=list)
    """Mirostat's state after each generated token; empty without mirostat."""
    prompt_len: int = field(init=False)
    score_only: bool = field(init=False)
    free_until: int = field(init=False)
    """Tokens up to which it gains one a step as a matter of course: 0 if it waits for its tokens to
    be known, or generates none."""

    def __post_init__(self) -> None:
        self.prompt_len = len(self.request.prompt_token_ids)
        self.score_only = self.request.score_only
        self.free_until = 0 if self.settles or self.score_only else self.max_len
        if not self.token_ids:
            self.token_ids = list(self.request.prompt_token_ids)
        self.priority = self.request.priority

    @property
    def num_tokens(self) -> int:
        """Tokens known or pending."""
        return len(self.token_ids) + self.num_pending

    @property
    def finished(self) -> bool:
        return self.state is RequestState.FINISHED
