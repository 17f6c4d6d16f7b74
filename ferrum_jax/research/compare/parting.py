"""Where in the network two models first part: relative errors of their activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ferrum_jax.models.sites import site_shape
from ferrum_jax.research.compare.matching import Piece, matched
from ferrum_jax.research.compare.side import ModelSide, Side, share_engine, weights_of

SITES = ("resid_pre", "attn_out", "mixer_out", "mlp_out", "resid_post")
"""In the order in which a layer computes them."""
MOST_TOKENS = 256


@dataclass(frozen=True)
class Parting:
    """`||x_b - x_a|| / ||x_a||` by site and layer, over tokens and features together."""

    sites: tuple[str, ...]
    errors: tuple[tuple[float, ...], ...]
    """For each site a number per layer; nan where one of the models has no such site."""
    threshold: float
    tokens: int
    """On how many tokens it was measured."""

    @property
    def first(self) -> tuple[int, str] | None:
        """Layer and site of the first error above the threshold, in the order of computation."""
        for layer, errors in enumerate(zip(*self.errors, strict=True)):
            for site, error in zip(self.sites, errors, strict=True):
                if error > self.threshold:
                    return layer, site
        return None


def why_not(a: Side, b: Side) -> str:
    """Why two sides' activations cannot be compared; empty if they can."""
    if not isinstance(a, ModelSide) or not isinstance(b, ModelSide):
        return "saved log-probabilities hold no activations"
    old, new = a.llm.config, b.llm.config
    if (old.num_layers, old.hidden_size) != (new.num_layers, new.hidden_size):
        return (
            f"the models have other shapes, {old.num_layers} layers of {old.hidden_size} and "
            f"{new.num_layers} of {new.hidden_size}"
        )
    return ""


def measure_parting(
    a: ModelSide,
    b: ModelSide,
    documents: Sequence[tuple[int, ...]],
    *,
    sites: Sequence[str] = SITES,
    threshold: float | None = None,
) -> Parting:
    """Compare activations on the first documents, cut to `MOST_TOKENS` tokens together.

    Args:
        sites: those of which both models have some layer are compared.
        threshold: from which relative error on two sites differ by more than rounding; None:
            `rounding_threshold`.
    """
    texts = _cut(documents)
    layers = a.llm.config.num_layers
    sites = [site for site in sites if _having(a, site) & _having(b, site)]
    squares = np.zeros((2, len(sites), layers))
    streams: list[Iterator[Piece]] = [side.activations(texts, sites) for side in (a, b)]
    for left, right in matched(streams[0], streams[1], in_turns=not share_engine(a, b)):
        for i, site in enumerate(sites):
            for layer in left.values[site].keys() & right.values[site].keys():
                x, y = (piece.values[site][layer] for piece in (left, right))
                squares[:, i, layer] += _squares(x, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.sqrt(squares[0] / squares[1])
    return Parting(
        sites=tuple(sites),
        errors=tuple(map(tuple, errors.tolist())),
        threshold=rounding_threshold(a, b) if threshold is None else threshold,
        tokens=sum(map(len, texts.values())),
    )


def rounding_threshold(a: ModelSide, b: ModelSide) -> float:
    """`eps ** 0.75` of the coarser weights: 6e-6 for float32, 0.026 for bfloat16.

    Rounding alone makes two float32 runs differ by tens of eps, as sums of thousands of terms in
    another order do; bfloat16 activations, summed in float32, differ by a few.
    """
    dtypes = {x.dtype for side in (a, b) for x in weights_of(side)}
    kinds = [jnp.finfo(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return max(float(kind.eps) for kind in kinds) ** 0.75


def _having(side: ModelSide, site: str) -> set[int]:
    """The layers that have a site."""
    config = side.llm.config
    return {i for i in range(config.num_layers) if site_shape(config, site, i) is not None}


def _cut(documents: Sequence[tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    texts: dict[int, tuple[int, ...]] = {}
    room = MOST_TOKENS
    for number, ids in enumerate(documents):
        if room <= 0:
            break
        texts[number] = ids[:room]
        room -= len(ids)
    return texts


def _squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Squared norms of the difference and of the reference, in float64."""
    old, new = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(np.sum((new - old) ** 2)), float(np.sum(old**2))
