"""The grammars of running sequences: what each may sample next, computed while the device works."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np

from ferrum_jax.guided import GrammarCompiler, GuidedText
from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.sampler import pack_ids
from ferrum_jax.types import SamplingParams, TokenizerError
from ferrum_jax.types import Sequence as RunningSequence


class Guides:
    """Keeps the place of every guided sequence in its grammar.

    A place is a function of the tokens that were generated, so preemption, forks and rewinds need
    no word of it.
    """

    def __init__(self, tokenizer: Tokenizer | None, eos: Iterable[int], vocab_size: int):
        self._tokenizer, self._eos, self._vocab_size = tokenizer, frozenset(eos), vocab_size
        self._texts: dict[RunningSequence, GuidedText] = {}
        self._coming: dict[RunningSequence, tuple[int, Future[np.ndarray]]] = {}

    def check(self, params: SamplingParams) -> None:
        """Make the grammar that a request asks for, if any.

        Raises:
            RequestError: there is no such grammar.
            TokenizerError: the model has no tokenizer.
            UnsupportedError: its tokens have no bytes, or llguidance is not installed.
        """
        if params.guided is not None:
            self._compiler.start(params.guided)

    def note(self, sequence: RunningSequence) -> bool:
        """Take in what a sequence has generated; whether its text is whole and cannot go on."""
        return sequence.request.params.guided is not None and self._text(sequence).finished

    def begin(self, sequence: RunningSequence) -> None:
        """Compute what may come next from now on, beside everything else."""
        if sequence.request.params.guided is not None:
            text = self._text(sequence)
            future = self._pool.submit(lambda: text.allowed()[None])
            self._coming[sequence] = len(sequence.token_ids), future

    def cut(self, sequence: RunningSequence, draft: tuple[int, ...]) -> tuple[int, ...]:
        """A sequence's draft up to the first token that may not come there."""
        if sequence.request.params.guided is None or not draft:
            return draft
        rows: Future[np.ndarray] = Future()
        rows.set_result(self._text(sequence).allowed_along(draft))
        self._coming[sequence] = len(sequence.token_ids), rows
        return draft[: len(rows.result()) - 1]

    def masks(self, sequences: Sequence[RunningSequence], count: int) -> np.ndarray:
        """uint32 `[n, count, ceil(V / 32)]`: the ids that may come next, all of whose tokens are
        known, and those that may come behind each token of the draft that was last cut."""
        for sequence in sequences:
            if self._coming.get(sequence, (-1, None))[0] != len(sequence.token_ids):
                self.begin(sequence)
        return np.stack([self._masks(sequence, count) for sequence in sequences])

    def error(self, sequence: RunningSequence) -> str:
        """Why a sequence's text cannot go on, where its grammar knows."""
        text = self._texts.get(sequence)
        return "" if text is None else text.error

    def forget(self, sequence: RunningSequence) -> None:
        """Drop a sequence's place; idempotent."""
        self._coming.pop(sequence, None)
        self._texts.pop(sequence, None)

    def _masks(self, sequence: RunningSequence, count: int) -> np.ndarray:
        rows = self._coming[sequence][1].result()
        rows = rows[np.minimum(np.arange(count), len(rows) - 1)]
        allowed = sequence.request.params.allowed_token_ids
        return rows if allowed is None else rows & pack_ids(allowed, self._vocab_size)

    def _text(self, sequence: RunningSequence) -> GuidedText:
        if (coming := self._coming.pop(sequence, None)) is not None:
            coming[1].result()  # A text is read by one thread at a time.
        if sequence not in self._texts:
            guided = sequence.request.params.guided
            assert guided is not None
            self._texts[sequence] = self._compiler.start(guided)
        text = self._texts[sequence]
        text.follow(sequence.token_ids[sequence.prompt_len :])
        return text

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        if self._tokenizer is None:
            raise TokenizerError(
                "guided decoding reads the texts of tokens, and this model was loaded without a "
                "tokenizer; put tokenizer.json or tokenizer.model beside its weights"
            )
        return GrammarCompiler(self._tokenizer, self._eos, self._vocab_size)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=4, thread_name_prefix="grammar")
