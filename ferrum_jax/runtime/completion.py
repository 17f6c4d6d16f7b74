"""The making of one completion, token by token: stops, text, logprobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.tokenizer import IncrementalDetokenizer, StopMatcher
from ferrum_jax.types import Completion, FinishReason, Logprob, Sequence, StreamDelta


@dataclass
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
    token_ids: list[int] = field(default_factory=list)
    text: str = ""

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
        """Whether nothing but its ids is wanted of a token when it comes."""
        ends = frozenset() if params.ignore_eos else self.eos_token_ids
        self._ends = ends.union(params.stop_token_ids)
        self._undecoded: list[int] = []
        self._num_decoded = 0
        self._sent_tokens = 0

    def push(self, token: int, logprobs: dict[int, Logprob] | None) -> str:
        """Take in a sampled token, decide whether it is the last; returns the new visible text."""
        sequence, params = self.sequence, self.sequence.request.params
        self.token_ids.append(token)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if token in params.stop_token_ids:
            self._finish(FinishReason.STOP, token)
        elif token in self.eos_token_ids and not params.ignore_eos:
            self._finish(FinishReason.STOP, None)
        if sequence.finish_reason is not FinishReason.STOP or params.include_stop_str_in_output:
            self._undecoded.append(token)
        text = self._decode() if self._eager else ""
        if sequence.finish_reason is None and len(sequence.token_ids) >= sequence.max_len:
            self._finish(FinishReason.LENGTH, None)
        if sequence.finish_reason is not None:
            text += self._flush()
        self.text += text
        return text

    def take(self, token: int) -> bool:
        """As `extend`, with one token."""
        sequence = self.sequence
        known = sequence.token_ids
        if len(known) + 1 >= sequence.max_len or token in self._ends:
            return False
        known.append(token)
        self.token_ids.append(token)
        self._undecoded.append(token)
        return True

    def extend(self, tokens: list[int]) -> bool:
        """Take in sampled tokens of which none is the last, where tokens alone are wanted; takes
        in nothing and returns False where one may be."""
        known = self.sequence.token_ids
        if len(known) + len(tokens) >= self.sequence.max_len or not self._ends.isdisjoint(tokens):
            return False
        known += tokens
        self.token_ids += tokens
        self._undecoded += tokens
        return True

    def finish(self, reason: FinishReason) -> str:
        """End the completion from outside; returns the text that was held back."""
        self._finish(reason, None)
        text = self._flush()
        self.text += text
        return text

    def replay(self, other: CompletionBuilder) -> None:
        """Take over what another completion of the same prompt has produced."""
        self._take_in(other.token_ids, other.logprobs)

    def rewind(self, count: int) -> None:
        """Keep the first `count` tokens."""
        tokens, logprobs = self.token_ids[:count], self.logprobs[:count]
        self.token_ids, self.logprobs, self.text = [], [], ""
        self._start()
        self._take_in(tokens, logprobs)

    def _take_in(self, tokens: list[int], logprobs: list[dict[int, Logprob]]) -> None:
        self.token_ids, self.logprobs = list(tokens), list(logprobs)
        self._undecoded = list(tokens)
        self.text = self._decode() if self._eager else ""

    def delta(self, text: str) -> StreamDelta:
        """What came since the last delta."""
        tokens, self._sent_tokens = self.token_ids[self._sent_tokens :], len(self.token_ids)
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
            token_ids=list(self.token_ids),
            logprobs=list(self.logprobs) if wanted else None,
            finish_reason=self.sequence.finish_reason,
            stop_reason=self.sequence.stop_reason,
            seed=self.seed,
        )

    def _decode(self) -> str:
        """The text of the tokens that are not decoded yet, cut at a stop string."""
        tokens, self._undecoded = self._undecoded, []
        if self._detokenizer is None or self._stops is None:
            return ""
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
