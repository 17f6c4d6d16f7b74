"""What a draft's distributions would be worth to speculative decoding.

A draft token x, drawn from q, is accepted with probability min(1, p(x) / q(x)) (Leviathan et al.
2023; Chen et al. 2023): over draws that is `sum(min(p, q))`. Greedily it is accepted if it is the
token that the model finds likeliest.

That k draft tokens in a row are accepted and read x has the probability of the product of
min(p, q)(x_i), which is the expectation over texts that the *model* samples of the product of
min(1, q(x_i) / p(x_i)). So runs are measured along the model's own samples, and nothing is assumed
to be independent. Starts are all positions, not those at which a verification would begin.

Dimension key: n positions of a document, V vocabulary, K longest draft.
"""

from dataclasses import dataclass

import numpy as np
from drafts import Draft, Text

from ferrum_jax.research.sweep.statistics import DocumentValues


@dataclass(frozen=True)
class Judged:
    """One draft on one document, per position `[n]` from `Text.start` on."""

    accepted: np.ndarray
    """sum(min(p, q)): the acceptance when sampling at temperature 1"""
    agrees: np.ndarray
    """whether both find the same token likeliest"""
    kept: np.ndarray
    """min(1, q(x) / p(x)) of the token x that stands there"""


def log_probs(draft: Draft, texts: list[Text]) -> list[list[np.ndarray]]:
    """Per text and document float32 `[n, V]`: the predictions of the positions that are judged."""
    ids = [tokens for text in texts for tokens in text.ids]
    captured = iter(draft.llm.capture(ids, "logits", taps=draft.taps))
    layer = draft.llm.config.num_layers
    return [
        [_log_softmax(next(captured)["logits"][layer][text.start - 1 : -1]) for _ in text.ids]
        for text in texts
    ]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(
        np.float32
    )


def judge(p_nV: np.ndarray, q_nV: np.ndarray, tokens: list[int]) -> Judged:
    """Compare the predictions of a document's last n tokens; `p` are the model's."""
    rows, chosen = np.arange(len(p_nV)), np.asarray(tokens[-len(p_nV) :])
    change = q_nV[rows, chosen] - p_nV[rows, chosen]
    return Judged(
        accepted=np.exp(np.minimum(p_nV, q_nV)).sum(axis=1, dtype=np.float64),
        agrees=p_nV.argmax(axis=1) == q_nV.argmax(axis=1),
        kept=np.exp(np.minimum(change, 0.0)).astype(np.float64),
    )


def mean_of(values: list[np.ndarray]) -> list[float]:
    """Mean over all positions of all documents, and its standard error over documents."""
    found = DocumentValues(
        np.asarray([x.sum() for x in values], np.float64),
        np.asarray([x.shape[0] for x in values], np.float64),
    )
    return [found.value, found.error]


def survivals(kept_n: np.ndarray, longest: int) -> np.ndarray:
    """`[n - K + 1, K]`: for each start the probability that so many tokens in a row are kept."""
    windows = np.lib.stride_tricks.sliding_window_view(kept_n.astype(np.float64), longest)
    return np.cumprod(windows, axis=1)


def expected_tokens(survivals_by_document: list[np.ndarray]) -> list[list[float]]:
    """For draft lengths 1 to K the tokens that a verification yields, each with its error.

    One comes from the model itself, whether it replaces a refused token or follows the last.
    """
    longest = survivals_by_document[0].shape[1]
    return [
        mean_of([1 + found[:, :length].sum(axis=1) for found in survivals_by_document])
        for length in range(1, longest + 1)
    ]
