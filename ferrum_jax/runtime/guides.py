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
        """Take in what a sequence has generated; whether its text is whole and cannot go on.

        If it can, what may come next is computed from now on, beside everything else.
        """
        if sequence.request.params.guided is None:
            return False
        text = self._text(sequence)
        if text.finished:
            return True
        self._begin(sequence, text)
        return False

    def masks(self, sequences: Sequence[RunningSequence]) -> np.ndarray:
        """uint32 `[n, ceil(V / 32)]`: the ids that may come next, all of whose tokens are known."""
        for sequence in sequences:
            if self._coming.get(sequence, (-1, None))[0] != len(sequence.token_ids):
                self._begin(sequence, self._text(sequence))
        return np.stack([self._mask(sequence) for sequence in sequences])

    def error(self, sequence: RunningSequence) -> str:
        """Why a sequence's text cannot go on, where its grammar knows."""
        text = self._texts.get(sequence)
        return "" if text is None else text.error

    def forget(self, sequence: RunningSequence) -> None:
        """Drop a sequence's place; idempotent."""
        self._coming.pop(sequence, None)
        self._texts.pop(sequence, None)

    def _begin(self, sequence: RunningSequence, text: GuidedText) -> None:
        future = self._pool.submit(text.allowed)
        self._coming[sequence] = len(sequence.token_ids), future

    def _mask(self, sequence: RunningSequence) -> np.ndarray:
        mask = self._coming[sequence][1].result()
        allowed = sequence.request.params.allowed_token_ids
        return mask if allowed is None else mask & pack_ids(allowed, self._vocab_size)

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
