"""A soft prompt: embeddings of no token in front of a prompt (Lester et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ferrum_jax.research.edits import patch
from ferrum_jax.research.fit.trainable import Trainable, Value
from ferrum_jax.research.prompt import run_prompt
from ferrum_jax.types import RequestError, Taps

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM


@dataclass(frozen=True)
class SoftPrompt(Trainable):
    """Vectors that stand where the embeddings of the first `length` tokens would.

    Value: `embeddings [length, D]`, as they enter layer 0 (a model's scale, projection, norm and
    learned positions of embeddings included).
    They start at the embeddings of a text's tokens, repeated to the length, or of random tokens.
    To serve one: `llm.generate([fitted.wrap(llm.encode(prompt))], taps=fitted.taps)`.
    """

    length: int = 8
    text: str | tuple[int, ...] | None = None
    """Where they start: a text or token ids; None: tokens drawn from the vocabulary by the seed."""
    placeholder: int = 0
    """The id of the tokens in whose place they are; which it is makes no difference, but in models
    whose layers have embeddings of their own (Gemma 4)."""

    def __post_init__(self) -> None:
        if isinstance(self.text, list):
            object.__setattr__(self, "text", tuple(self.text))
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise RequestError(f"length is {self.length!r}; give a number of vectors from 1")

    def init(self, llm: LLM, seed: int) -> Value:
        """Embeddings of tokens of the vocabulary, as the model scales and places them."""
        vocab = llm.config.vocab_size
        if not 0 <= self.placeholder < vocab:
            raise RequestError(
                f"placeholder is {self.placeholder}; the vocabulary has ids 0 to {vocab - 1}"
            )
        if self.text is None:
            ids = np.random.default_rng(seed).integers(0, vocab, self.length)
        else:
            ids = np.resize(self._start(llm), self.length)
        run = run_prompt(llm, [int(i) for i in ids], ("resid_pre",), layers=(0,))
        return {"embeddings": run.captured["resid_pre"][0][: self.length]}

    def taps(self, value: Value) -> Taps:
        """`fj.edits.patch` of what enters layer 0."""
        return patch(value["embeddings"], layer=0, site="resid_pre")

    def wrap(self, token_ids: Sequence[int]) -> list[int]:
        """Placeholders, and the prompt behind them."""
        return [self.placeholder] * self.length + list(token_ids)

    def _start(self, llm: LLM) -> list[int]:
        from ferrum_jax.runtime.intake import checked_token_ids

        assert self.text is not None
        return list(checked_token_ids(llm.encode(self.text), llm.config.vocab_size))
