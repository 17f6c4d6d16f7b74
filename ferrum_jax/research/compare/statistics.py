"""From the numbers of every token to figures with standard errors.

The figures are those of llama.cpp's `llama-perplexity --kl-divergence`, with `a` as its base:
perplexities, their ratio and difference, KL(a || b), the change of the true token's probability,
and how often the likeliest token stays. It scores the second half of every window and takes errors
over tokens; here every token with `min_context` tokens before it counts, and errors are over
documents. Percentiles are interpolated linearly, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ferrum_jax.research.compare.bootstrap import Bootstrap, Estimate, percentiles
from ferrum_jax.research.compare.tokens import TokenTable

PERCENTS = (0.0, 0.1, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)


@dataclass(frozen=True)
class Figures:
    """What two sides differ by over all tokens. nats and probabilities, no percent."""

    ppl_a: Estimate
    """exp of the mean negative log-likelihood"""
    ppl_b: Estimate
    ln_ratio: Estimate
    """ln(PPL(b) / PPL(a))"""
    ratio: Estimate
    """PPL(b) / PPL(a)"""
    difference: Estimate
    """PPL(b) - PPL(a)"""
    correlation: Estimate
    """of the two sides' negative log-likelihoods, over tokens"""
    kld: Estimate
    """mean KL(a || b)"""
    delta_p: Estimate
    """mean of p_b - p_a of the true token"""
    delta_p_rms: Estimate
    same_top: Estimate
    """share of the tokens for which both sides find the same id likeliest"""
    kld_percentiles: dict[float, Estimate]
    """By percent; 0 is the smallest value and 100 the largest."""
    delta_p_percentiles: dict[float, Estimate]


def figures_of(tokens: TokenTable, bootstrap: Bootstrap) -> Figures:
    """All figures of a comparison."""
    sums = _document_sums(tokens, bootstrap.documents)
    whole = _means(sums.sum(axis=0, keepdims=True))
    values = _figures(whole, whole[0])[0]
    errors = bootstrap.errors(lambda weights: _figures(_means(weights @ sums), whole[0]))
    estimates = [Estimate(float(v), float(e)) for v, e in zip(values, errors, strict=True)]
    return Figures(
        *estimates,
        kld_percentiles=percentiles(tokens.kld, tokens.document, PERCENTS, bootstrap),
        delta_p_percentiles=percentiles(tokens.delta_p, tokens.document, PERCENTS, bootstrap),
    )


def _document_sums(tokens: TokenTable, documents: int) -> Float[np.ndarray, "documents 12"]:
    """Sums over each document's tokens of 1 and of all whose means the figures are made of."""
    nll_a, nll_b = tokens.nll_a.astype(np.float64), tokens.nll_b.astype(np.float64)
    off_a, off_b = nll_a - nll_a.mean(), nll_b - nll_b.mean()
    columns = [
        np.ones(len(tokens)),
        nll_a,
        nll_b - nll_a,
        off_a,
        off_b,
        off_a * off_a,
        off_b * off_b,
        off_a * off_b,
        tokens.kld.astype(np.float64),
        tokens.delta_p,
        tokens.delta_p**2,
        tokens.same_top.astype(np.float64),
    ]
    firsts = np.searchsorted(tokens.document, np.arange(documents))
    return np.add.reduceat(np.stack(columns, axis=1), firsts, axis=0)


def _means(sums: Float[np.ndarray, "R 12"]) -> Float[np.ndarray, "R 11"]:
    return sums[:, 1:] / sums[:, :1]


def _figures(
    means: Float[np.ndarray, "R 11"], whole: Float[np.ndarray, " 11"]
) -> Float[np.ndarray, "R 10"]:
    """The figures in the order of `Figures`, of each row of means.

    Perplexities are linear about those of the `whole` sample, so that their errors are those of
    their logarithms, propagated: exp of a resample's mean is skewed without bound.
    """
    nll_a, change, off_a, off_b, square_a, square_b, product, *others = means.T
    kld, delta_p, delta_p_squared, same_top = others
    step_a, step = nll_a - whole[0], change - whole[1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ppl_a, ratio = np.exp(whole[0]), np.exp(whole[1])
        # By way of the paired change: sides that are equal then differ by exactly nothing.
        ppl_b, difference = ppl_a * ratio, ppl_a * np.expm1(whole[1])
        variances = (square_a - off_a * off_a) * (square_b - off_b * off_b)
        found = [
            ppl_a * (1 + step_a),
            ppl_b * (1 + step_a + step),
            change,
            ratio * (1 + step),
            difference * (1 + step_a) + ppl_b * step,
            (product - off_a * off_b) / np.sqrt(variances),
            kld,
            delta_p,
            np.sqrt(delta_p_squared),
            same_top,
        ]
    return np.stack(found, axis=1)
