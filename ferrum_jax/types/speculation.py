"""Speculative decoding: where drafts come from, and how long they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ferrum_jax.types.errors import ConfigError


@dataclass(frozen=True)
class Speculation:
    """How tokens are drafted that one step of the model then verifies together.

    Drafts change how fast tokens come and never which: see `docs/speculation.md`.

    Raises:
        ConfigError: a value outside its range.
    """

    draft: str | Callable[[], Any] = "ngram"
    """`ngram`: what followed the last tokens where they stood before in the sequence (prompt
    lookup). Another text: the directory or hub id of a smaller model with the same tokenizer. Or
    what makes an `fj.interfaces.Proposer` of one's own; it is called once for each sequence."""
    num_tokens: int = 4
    """The longest draft."""
    min_chance: float = 0.3
    """A draft goes on while the chance that its next token is accepted, as estimated from the
    sequence's earlier drafts, is at least this. 0: drafts are as long as they can be."""
    ngram: tuple[int, int] = (2, 4)
    """`ngram`: the fewest and the most tokens that have to be the same; most are tried first."""

    def __post_init__(self) -> None:
        if not (callable(self.draft) or (isinstance(self.draft, str) and self.draft)):
            raise ConfigError(
                f"Speculation.draft is {self.draft!r}; it must be 'ngram', a model's directory, or "
                "a function that makes a proposer"
            )
        _check_integer("num_tokens", self.num_tokens, 1, 64)
        if isinstance(self.min_chance, bool) or not isinstance(self.min_chance, int | float):
            raise ConfigError(f"Speculation.min_chance is {self.min_chance!r}; it must be a number")
        if not 0 <= self.min_chance <= 1:
            raise ConfigError(
                f"Speculation.min_chance is {self.min_chance!r}; it must be from 0 to 1"
            )
        if not (isinstance(self.ngram, tuple) and len(self.ngram) == 2):
            raise ConfigError(
                f"Speculation.ngram is {self.ngram!r}; it must be two lengths, as in (2, 4)"
            )
        for length in self.ngram:
            _check_integer("ngram", length, 1, 64)
        if self.ngram[0] > self.ngram[1]:
            raise ConfigError(
                f"Speculation.ngram is {self.ngram!r}; the shortest length comes first"
            )

    @property
    def uses_model(self) -> bool:
        """Whether a model drafts."""
        return isinstance(self.draft, str) and self.draft != "ngram"


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(
            f"Speculation.{name} is {value!r}; it must be an integer from {low} to {high}"
        )
