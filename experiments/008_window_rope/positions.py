"""The loss by position in the document, for configs that go beyond the trained context."""

from collections.abc import Sequence

import numpy as np
from config import Plan

import ferrum_jax as fj
from ferrum_jax.research.sweep.statistics import DocumentValues, paired_difference
from ferrum_jax.types import ModelConfig


def loss_by_position(
    llm: fj.LLM, configs: dict[str, ModelConfig], texts: list[list[int]], plan: Plan
) -> list[dict]:
    """Per config the mean loss of each bin of positions and of each half, with errors.

    The first config is what the others are compared with, over the same documents.
    """
    found = {}
    for name, config in configs.items():
        with llm.with_config(config) as other:
            scores = other.score(texts)
        found[name] = np.stack([-score.logprobs for score in scores]).astype(np.float64)
    half = llm.config.max_positions
    halves = (slice(1, half), slice(half, plan.far_length))
    starts = range(0, plan.far_length, plan.bin)
    bins = [slice(max(start, 1), start + plan.bin) for start in starts]
    base = next(iter(found.values()))
    return [
        {
            "name": name,
            "bins": _figures(losses, bins),
            "bin_changes": _changes(losses, base, bins),
            "halves": _figures(losses, halves),
            "changes": _changes(losses, base, halves),
        }
        for name, losses in found.items()
    ]


def _values(losses: np.ndarray, span: slice) -> DocumentValues:
    """The losses `[documents, positions]` within a span of positions."""
    within = losses[:, span]
    return DocumentValues(within.sum(axis=1), np.full(len(within), float(within.shape[1])))


def _figures(losses: np.ndarray, spans: Sequence[slice]) -> list[list[float]]:
    found = [_values(losses, span) for span in spans]
    return [[values.value, values.error] for values in found]


def _changes(
    losses: np.ndarray, base: np.ndarray, spans: Sequence[slice]
) -> list[tuple[float, float]]:
    return [paired_difference(_values(losses, span), _values(base, span)) for span in spans]
