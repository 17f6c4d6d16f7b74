"""Standard errors by resampling documents (Efron and Tibshirani 1993, chapter 6).

Documents are what was sampled, so they are resampled whole: the tokens of one resemble each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ferrum_jax.research.tables import with_error
from ferrum_jax.types import RequestError

BLOCK_WEIGHTS = 2**20
"""Weights that are drawn at a time: 8 MiB."""
ROUNDING = 1e-12
"""A smaller error, relative to its value, is float64 rounding and counts as none."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error; nan where there is none."""

    value: float
    error: float = math.nan

    def __str__(self) -> str:
        return with_error(self.value, self.error)


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of `documents` documents with replacement: the same ones at every use.

    Raises:
        RequestError: fewer than 2 resamples, or a seed that is none.
    """

    documents: int
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low in (("resamples", self.resamples, 2), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise RequestError(f"{name} is {value!r}; give an integer of at least {low}")

    def weights(self) -> Iterator[Float[np.ndarray, "R documents"]]:
        """How often each document is in each resample; in blocks of R resamples."""
        generator = np.random.default_rng(self.seed)
        shares = np.full(self.documents, 1 / self.documents)
        size = max(1, BLOCK_WEIGHTS // self.documents)
        for done in range(0, self.resamples, size):
            count = min(size, self.resamples - done)
            yield generator.multinomial(self.documents, shares, size=count).astype(np.float64)

    def errors(
        self,
        figures: Callable[[Float[np.ndarray, "R documents"]], Float[np.ndarray, "R m"]],
    ) -> Float[np.ndarray, " m"]:
        """Standard errors of m figures, given as a function of the documents' weights.

        The standard deviation over resamples, times sqrt(n / (n - 1)): for a mean over documents
        this is the textbook standard error, up to the chance of the resampling. nan for one
        document; figures that are nan in a resample are left out of it.
        """
        if self.documents < 2:
            return np.full(figures(np.ones((1, 1))).shape[1], np.nan)
        found = np.concatenate([figures(weights) for weights in self.weights()])
        known = ~np.isnan(found)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = np.sum(found, axis=0, where=known) / known.sum(axis=0)
            squares = np.sum((found - centre) ** 2, axis=0, where=known) / known.sum(axis=0)
            spread = np.sqrt(squares * self.documents / (self.documents - 1))
            return np.where(spread <= ROUNDING * np.abs(centre), 0.0, spread)


def percentiles(
    values: Float[np.ndarray, " N"],
    document: Int[np.ndarray, " N"],
    percents: Sequence[float],
    bootstrap: Bootstrap,
) -> dict[float, Estimate]:
    """Percentiles of all values, with linear interpolation between the two nearest.

    Their errors come from resampling documents; the smallest and the largest value (0 and 100) have
    none, since resamples never leave the range of the sample.

    Args:
        document: which one each value is of, from 0.
    """
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order].astype(np.float64), document[order]
    fractions = np.asarray(percents, np.float64) / 100

    def figures(weights: np.ndarray) -> np.ndarray:
        rows = (np.cumsum(row[owner].astype(np.int64)) for row in weights)
        return np.stack([_interpolated(ordered, ends, fractions) for ends in rows])

    found = figures(np.ones((1, bootstrap.documents)))[0]
    errors = bootstrap.errors(figures)
    errors[(fractions <= 0) | (fractions >= 1)] = np.nan
    return {
        percent: Estimate(float(value), float(error))
        for percent, value, error in zip(percents, found, errors, strict=True)
    }


def _interpolated(ordered: np.ndarray, ends: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Percentiles of ordered values of which value i fills the places up to `ends[i]`."""
    last = ends[-1] - 1
    place = fractions * last
    low = np.floor(place).astype(np.int64)
    below = ordered[np.searchsorted(ends, low, side="right")]
    above = ordered[np.searchsorted(ends, np.minimum(low + 1, last), side="right")]
    share = place - low
    return np.where(share > 0, below + share * (above - below), below)
