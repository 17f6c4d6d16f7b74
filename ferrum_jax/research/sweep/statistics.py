"""A value per document, the value of them all, and how far chance in the documents moves it.

Documents are what was sampled, so errors are over documents, never over tokens: those of one
document resemble each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ferrum_jax.types import RequestError


@dataclass(frozen=True, eq=False)
class DocumentValues:
    """A metric by document. Its value is `sum(sums) / sum(weights)`: a mean where weights are 1."""

    sums: Float[np.ndarray, " n"]
    """float64: nats, say"""
    weights: Float[np.ndarray, " n"]
    """float64: tokens, say; at least 0"""
    num_tokens: int | None = None
    """Tokens that were scored; None where the metric does not tell."""

    @cached_property
    def value(self) -> float:
        """Of all documents together."""
        return float(self.sums.sum() / self.weights.sum())

    @property
    def influence(self) -> Float[np.ndarray, " n"]:
        """How each document pulls the value: `(sum - value * weight) / mean weight`; mean 0."""
        return (self.sums - self.value * self.weights) / self.weights.mean()

    @property
    def error(self) -> float:
        """Standard error of the value; nan for a single document."""
        return standard_error(self.influence)


def standard_error(influence: Float[np.ndarray, " n"]) -> float:
    """That of a ratio of sums, by its linearisation (Cochran 1977, section 6.4); nan for n = 1.

    With weights of 1 this is the textbook `std / sqrt(n)`.
    """
    count = len(influence)
    return math.nan if count < 2 else float(np.std(influence, ddof=1) / math.sqrt(count))


def paired_difference(new: DocumentValues, old: DocumentValues) -> tuple[float, float]:
    """`new - old` and its standard error, over the same documents in the same order.

    What makes a document hard for both cancels, so this error is mostly far below either's own.
    """
    return new.value - old.value, standard_error(new.influence - old.influence)


def checked_values(values: DocumentValues, count: int | None) -> DocumentValues:
    """The values, if they are finite and as many as those of the baseline (`count`).

    Raises:
        RequestError: they are not, or nothing has a weight.
    """
    if count is not None and len(values.sums) != count:
        raise RequestError(
            f"the metric gave {len(values.sums)} values, and {count} for the baseline; it must "
            "give one for each document"
        )
    if len(values.sums) == 0 or not values.weights.sum() > 0:
        raise RequestError("the metric measured nothing: no document has a token to score")
    for i, found in enumerate(values.sums):
        if not math.isfinite(found):
            raise RequestError(f"the metric is {found} for document {i}; values must be finite")
    return values
