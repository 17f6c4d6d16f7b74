"""The making of one completion, token by token: stops, text, logprobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.tokenizer import IncrementalDetokenizer, StopMatcher
from ferrum_jax.types import Completion, FinishReason, Logprob, Sequence, StreamDelta


@dataclass(slots=True)
class CompletionBuilder:
    """Follows one sequence; without a tokenizer its text stays empty.

    Text is decoded as tokens come only where someone reads it then: a stream, or stop strings.
    """

    sequence: Sequence
    tokenizer: Tokenizer | None
    eos_token_ids: frozenset[int]
    seed: int
    streams: bool
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    text: str = ""
    token_times: list[float] = field(default_factory=list)
    """When the host read each token, in seconds."""
    tokens_alone: bool = field(init=False)
    """Whether nothing but its ids is wanted of a token when it comes."""
    _eager: bool = field(init=False)
    ends: frozenset[int] = field(init=False)
    """Token ids of which any is the last."""
    _detokenizer: IncrementalDetokenizer | None = field(init=False)
    _stops: StopMatcher | None = field(init=False)
    _num_decoded: int = field(init=False)
    _hides_last: bool = field(init=False)
    _sent_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        params = self.sequence.request.params
        self._detokenizer = None
        self._stops = None
        if self.tokenizer is not None:
            self._detokenizer = IncrementalDetokenizer(
                self.tokenizer,
                skip_special_tokens=params.skip_special_tokens,
                prefix_ids=self.sequence.request.prompt_token_ids,
            )
            self._stops = StopMatcher(params.stop, include_stop=params.include_stop_str_in_output)
        self._eager = self.streams or bool(params.stop)
        self.tokens_alone = not (
            self._eager
            or params.guided
            or params.num_logprobs is not None
            or params.mirostat is not None
        )
        ends = frozenset() if params.ignore_eos else self.eos_token_ids
        self.ends = ends.union(params.stop_token_ids)
        self._num_decoded = 0
        self._hides_last = False
        self._sent_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.sequence.token_ids) - self.sequence.prompt_len

    @property
    def token_ids(self) -> list[int]:
        """The tokens generated so far."""
        return self._generated(0)

    def _generated(self, first: int) -> list[int]:
        return self.sequence.token_ids[self.sequence.prompt_len + first :]

    def push(self, token: int, logprobs: dict[int, Logprob] | None) -> str:
        """Take in a sampled token, decide whether it is the last; returns the new visible text."""
        sequence, params = self.sequence, self.sequence.request.params
        sequence.token_ids.append(token)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if token in params.stop_token_ids:
            self._finish(FinishReason.STOP, token)
        elif token in self.eos_token_ids and not params.ignore_eos:
            self._finish(FinishReason.STOP, None)
        stopped = sequence.finish_reason is FinishReason.STOP
        self._hides_last = stopped and not params.include_stop_str_in_output
        text = self._decode() if self._eager else ""
        if sequence.finish_reason is None and len(sequence.token_ids) >= sequence.max_len:
            self._finish(FinishReason.LENGTH, None)
        if sequence.finish_reason is not None:
            text += self._flush()
        self.text += text
        return text

    def extend(self, tokens: list[int], read_at: float) -> bool:
        """Take in sampled tokens of which none is the last, where tokens alone are wanted; takes
        in nothing and returns False where one may be."""
        known = self.sequence.token_ids
        if len(known) + len(tokens) >= self.sequence.max_len or not self.ends.isdisjoint(tokens):
            return False
        known += tokens
        self.token_times += [read_at] * len(tokens)
        return True

    def finish(self, reason: FinishReason) -> str:
        """End the completion from outside; returns the text that was held back."""
        self._finish(reason, None)
        text = self._flush()
        self.text += text
        return text

    def replay(self, other: CompletionBuilder) -> None:
        """Take over what another completion of the same tokens has produced besides them."""
        self.logprobs = list(other.logprobs)
        self.text = self._decode() if self._eager else ""

    def rewind(self) -> None:
        """Give up what belongs to tokens that the sequence has no more."""
        del self.logprobs[self.num_tokens :]
        self._start()
        self.text = self._decode() if self._eager else ""

    def delta(self, text: str) -> StreamDelta:
        """What came since the last delta."""
        tokens, self._sent_tokens = self._generated(self._sent_tokens), self.num_tokens
        return StreamDelta(
            request_id=self.sequence.request.request_id,
            index=self.sequence.index,
            text=text,
            token_ids=tokens,
            finish_reason=self.sequence.finish_reason,
            stop_reason=self.sequence.stop_reason,
        )

    def build(self) -> Completion:
        wanted = self.sequence.request.params.num_logprobs is not None
        return Completion(
            index=self.sequence.index,
            text=self.text,
            token_ids=self.token_ids,
            logprobs=list(self.logprobs) if wanted else None,
            finish_reason=self.sequence.finish_reason,
            stop_reason=self.sequence.stop_reason,
            seed=self.seed,
        )

    def _decode(self) -> str:
        """The text of the tokens that are not decoded yet, cut at a stop string."""
        if self._detokenizer is None or self._stops is None:
            return ""
        tokens = self._generated(self._num_decoded)
        if self._hides_last:
            del tokens[-1:]
        text = "".join(self._decode_token(token) for token in tokens)
        self._note_stop()
        return text

    def _decode_token(self, token: int) -> str:
        """The text that a token decides; stop strings that end within `min_tokens` are none."""
        assert self._detokenizer is not None
        assert self._stops is not None
        self._num_decoded += 1
        return self._stops.push(self._detokenizer.push(token), may_stop=self._may_stop)

    @property
    def _may_stop(self) -> bool:
        return self._num_decoded > self.sequence.request.params.min_tokens

    def _flush(self) -> str:
        if self._detokenizer is None or self._stops is None or self._stops.matched is not None:
            return ""
        text = self._decode()
        text += self._stops.push(self._detokenizer.flush(), may_stop=self._may_stop)
        self._note_stop()
        return text if self._stops.matched is not None else text + self._stops.flush()

    def _note_stop(self) -> None:
        assert self._stops is not None
        # A token that stopped the text already remains the reason.
        if self._stops.matched is not None and self.sequence.finish_reason is not FinishReason.STOP:
            self._finish(FinishReason.STOP, self._stops.matched)

    def _finish(self, reason: FinishReason, stop: int | str | None) -> None:
        self.sequence.finish_reason = reason
        self.sequence.stop_reason = stop
