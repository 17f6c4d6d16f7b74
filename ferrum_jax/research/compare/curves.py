"""Distributions and profiles in bins: what a figure is drawn from, small enough for a record."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ferrum_jax.research.compare.bootstrap import Bootstrap
from ferrum_jax.research.compare.tokens import TokenTable

KLD_BINS = 60
DELTA_P_BINS = 61
"""An odd number: the middle bin holds what did not change."""
POSITION_BINS = 20


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; `edges` has one number more than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    outside: int = 0
    """Values that no bin holds: 0 and infinity, where the bins are logarithmic."""


@dataclass(frozen=True)
class Profile:
    """A mean in bins of the position, with standard errors over documents."""

    edges: tuple[int, ...]
    """Positions; bin i holds those from edge i up to, and without, edge i + 1."""
    means: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """What `Comparison.plot` draws, besides the place where two models part."""

    kld: Histogram
    delta_p: Histogram
    kld_by_position: Profile


def curves_of(tokens: TokenTable, bootstrap: Bootstrap) -> Curves:
    """The curves of a comparison."""
    return Curves(
        kld=_logarithmic(tokens.kld.astype(np.float64)),
        delta_p=_symmetric(tokens.delta_p),
        kld_by_position=_profile(tokens, bootstrap),
    )


def _logarithmic(values: Float[np.ndarray, " N"]) -> Histogram:
    inside = values[(values > 0) & np.isfinite(values)]
    if not inside.size:
        return Histogram((), (), len(values))
    low, high = inside.min(), inside.max()
    edges = np.geomspace(low, high if high > low else 2 * low, KLD_BINS + 1)
    return _histogram(inside, edges, len(values) - inside.size)


def _symmetric(values: Float[np.ndarray, " N"]) -> Histogram:
    reach = float(np.abs(values).max())
    if not reach:
        return Histogram((), (), len(values))
    return _histogram(values, np.linspace(-reach, reach, DELTA_P_BINS + 1), 0)


def _histogram(values: np.ndarray, edges: np.ndarray, outside: int) -> Histogram:
    # What rounding puts beyond the outermost edges belongs to the outermost bins.
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), outside)


def _profile(tokens: TokenTable, bootstrap: Bootstrap) -> Profile:
    """Mean KLD in bins of the position that grow geometrically."""
    first, stop = int(tokens.position.min()), int(tokens.position.max()) + 1
    edges = np.unique(np.geomspace(first, stop, POSITION_BINS + 1).round().astype(int))
    count, bins = len(edges) - 1, np.searchsorted(edges, tokens.position, side="right") - 1
    cells = tokens.document.astype(np.int64) * count + bins
    size = bootstrap.documents * count
    shape = (bootstrap.documents, count)
    sums = np.bincount(cells, tokens.kld, size).reshape(shape)
    numbers = np.bincount(cells, minlength=size).reshape(shape).astype(np.float64)

    def means(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (weights @ sums) / (weights @ numbers)

    found = means(np.ones((1, bootstrap.documents)))[0]
    errors = bootstrap.errors(means)
    # A bin that one document alone reaches has no error, as one document has none.
    errors = np.where((numbers > 0).sum(axis=0) > 1, errors, math.nan)
    return Profile(tuple(edges.tolist()), tuple(found.tolist()), tuple(errors.tolist()))
