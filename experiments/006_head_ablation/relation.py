"""How the cost of losing a head goes with what the head looks at.

Dimension key: n heads, d documents, R resamples.
"""

from collections.abc import Callable

import numpy as np
from config import Plan

from ferrum_jax.research.compare.bootstrap import Bootstrap
from ferrum_jax.research.reading import InductionScores
from ferrum_jax.research.sweep import SweepTable

SCORES = ("induction", "previous_token", "duplicate_token")


def relations(
    table: SweepTable, kind: str, sign: float, scores: InductionScores, plan: Plan
) -> dict:
    """Rank correlations (Spearman 1904) over the heads of cost and each score.

    `[value, error over documents, error over heads]`: the first error is that of measuring these
    heads on other text; the second, larger one holds for other heads of the same kind.
    """
    by_document = _costs(table, kind, sign)
    documents = len(table.baseline.values.sums)
    found = {}
    for name in SCORES:
        score_n = getattr(scores, name).ravel()
        cost_n = by_document(np.ones((1, documents)))[0]

        def over_documents(weights: np.ndarray, score_n: np.ndarray = score_n) -> np.ndarray:
            return np.array([[rank_correlation(c, score_n)] for c in by_document(weights)])

        def over_heads(
            weights: np.ndarray, score_n: np.ndarray = score_n, cost_n: np.ndarray = cost_n
        ) -> np.ndarray:
            drawn = [np.repeat(np.arange(len(w)), w.astype(int)) for w in weights]
            return np.array([[rank_correlation(cost_n[i], score_n[i])] for i in drawn])

        bootstraps = (
            Bootstrap(documents, plan.resamples, plan.seed).errors(over_documents),
            Bootstrap(len(score_n), plan.resamples, plan.seed).errors(over_heads),
        )
        found[name] = [rank_correlation(cost_n, score_n), *(float(e[0]) for e in bootstraps)]
    return found


def _costs(table: SweepTable, kind: str, sign: float) -> Callable[[np.ndarray], np.ndarray]:
    """Costs `[R, n]` as a function of the documents' weights `[R, d]`."""
    rows = [row.values for row in table.rows if row.key[0] == kind]
    sums_dn = np.stack([values.sums for values in rows], axis=1)
    base = table.baseline.values

    def costs(weights_Rd: np.ndarray) -> np.ndarray:
        changes = weights_Rd @ (sums_dn - base.sums[:, None])
        return sign * changes / (weights_Rd @ base.weights)[:, None]

    return costs


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of the ranks; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]
