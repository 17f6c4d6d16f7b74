"""Choices in the order of their likelihoods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

RANKED_BY = ("total", "mean", "per_byte", "mutual_information")
SHOWN = 40
"""Characters of a choice in a table."""


@dataclass(frozen=True)
class ChoiceScore:
    """The log-likelihood of one choice behind the query, in nats."""

    choice: str | tuple[int, ...]
    index: int
    """Its place among the choices that were given."""
    token_ids: list[int]
    """What was scored: all tokens behind those that the query and every choice share."""
    logprobs: np.ndarray = field(repr=False)
    """float32, one for each of them."""
    unconditional: float
    """log p of the same tokens behind a BOS (or else EOS) token alone; nan without either."""
    num_bytes: int | None
    """Of the choice in UTF-8; None where it has no text."""

    @property
    def total(self) -> float:
        """log p(choice | query)."""
        return float(np.sum(self.logprobs, dtype=np.float64))

    @property
    def mean(self) -> float:
        """`total` / tokens."""
        return self.total / len(self.token_ids)

    @property
    def per_byte(self) -> float:
        """`total` / bytes of the choice; nan where it has no text."""
        return self.total / self.num_bytes if self.num_bytes else math.nan

    @property
    def mutual_information(self) -> float:
        """log p(choice | query) - log p(choice)."""
        return self.total - self.unconditional


@dataclass(frozen=True)
class Ranking:
    """Scored choices, the best first; those that are equal in the order they were given.

    `print` shows them as a table; it can be indexed, iterated and counted.
    """

    by: str
    """What they are ordered by: one of `RANKED_BY`."""
    scores: tuple[ChoiceScore, ...]
    num_shared: int
    """Tokens that stand before what was scored: the query's, as far as no choice changes them."""

    @property
    def best(self) -> ChoiceScore:
        """The first."""
        return self.scores[0]

    def __getitem__(self, place: int) -> ChoiceScore:
        return self.scores[place]

    def __iter__(self) -> Iterator[ChoiceScore]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        heads = ["", "choice", "tokens", *(name.replace("_", " ") for name in RANKED_BY)]
        heads[3 + RANKED_BY.index(self.by)] += " *"
        rows = [heads]
        for place, score in enumerate(self.scores, 1):
            figures = [_figure(getattr(score, name)) for name in RANKED_BY]
            rows.append([str(place), _shown(score.choice), str(len(score.token_ids)), *figures])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 1 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _shown(choice: str | tuple[int, ...]) -> str:
    text = repr(choice) if isinstance(choice, str) else str(list(choice))
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
