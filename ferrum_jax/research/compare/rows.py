"""What two distributions over the next token differ by, row by row, in float32.

Dimension key: n tokens, V vocabulary, k kept ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrum_jax.research.divergence import kl_divergence

FEWEST_ROWS = 8


class Predictions(NamedTuple):
    """What one side predicted for n tokens; logarithms are natural."""

    log_probs: Float[Array, "n V"]
    """of all ids; or of `ids` and, in a last column, of all others together"""
    ids: Int[Array, "n k"] | None
    chosen: Float[Array, " n"]
    """of the token that follows"""
    top: Int[Array, " n"]
    """the likeliest id"""
    top_log_prob: Float[Array, " n"]


class RowValues(NamedTuple):
    """Per token: what is kept of it. float32 and int32 `[n]`, on the host."""

    nll_a: np.ndarray
    nll_b: np.ndarray
    kld: np.ndarray
    top_a: np.ndarray
    top_b: np.ndarray
    p_top_a: np.ndarray
    p_top_b: np.ndarray


def compare_rows(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], targets: np.ndarray
) -> RowValues:
    """Compare n rows of two sides; KLD is that of b from a, `KL(a || b)`, in nats.

    Args:
        a, b: `logits` `[n, V]`, or the arrays of `SavedLogprobs.rows`; at most one with `ids`.
        targets: int32 `[n]`, the tokens that follow.

    Both sides go through the same compiled programs, one after the other: equal rows give equal
    bits, and so exactly zero.
    """
    count = len(targets)
    padded = max(FEWEST_ROWS, 1 << (count - 1).bit_length())
    size = padded - count
    targets = np.pad(targets, (0, size))
    read = [
        _predictions({k: _padded(x, size) for k, x in side.items()}, targets) for side in (a, b)
    ]
    log_probs = [mine.log_probs for mine in read]
    ids = [mine.ids for mine in read]
    for this, other in ((0, 1), (1, 0)):
        if ids[other] is not None and ids[this] is None:
            log_probs[this] = bucketed(log_probs[this], ids[other])
    found = (
        -read[0].chosen,
        -read[1].chosen,
        kl_divergence(log_probs[0], log_probs[1]),
        read[0].top,
        read[1].top,
        jnp.exp(read[0].top_log_prob),
        jnp.exp(read[1].top_log_prob),
    )
    return RowValues(*(np.asarray(x)[:count] for x in found))


@jax.jit
def read_logits(logits: Float[Array, "n V"], targets: Int[Array, " n"]) -> Predictions:
    """Normalise rows, and pick out of them what is asked of each."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    top = jnp.argmax(log_probs, axis=-1)
    return Predictions(log_probs, None, _picked(log_probs, targets), top, _picked(log_probs, top))


@jax.jit
def bucketed(log_probs: Float[Array, "n V"], ids: Int[Array, "n k"]) -> Float[Array, "n k+1"]:
    """The ids' log-probabilities and, in a last column, that of all others together."""
    kept = jnp.take_along_axis(log_probs, ids, axis=-1)
    rows = jnp.arange(log_probs.shape[0])[:, None]
    others = jax.nn.logsumexp(log_probs.at[rows, ids].set(-jnp.inf), axis=-1, keepdims=True)
    return jax.nn.log_softmax(jnp.concatenate([kept, others], axis=-1), axis=-1)


def _predictions(values: Mapping[str, np.ndarray], targets: np.ndarray) -> Predictions:
    if "logits" in values:
        return read_logits(jnp.asarray(values["logits"]), jnp.asarray(targets))
    known = [jnp.asarray(values[name]) for name in ("chosen", "top", "top_logprob")]
    log_probs, ids = jnp.asarray(values["logprobs"]), None
    if "ids" in values:
        ids = jnp.asarray(values["ids"])
        log_probs = jnp.concatenate([log_probs, jnp.asarray(values["tail"])[:, None]], axis=-1)
    # What was rounded to float16 adds up to one only when it is normalised anew.
    return Predictions(jax.nn.log_softmax(log_probs, axis=-1), ids, *known)


def _picked(log_probs: Array, ids: Array) -> Array:
    return jnp.take_along_axis(log_probs, ids[:, None], axis=-1)[:, 0]


def _padded(x: np.ndarray, size: int) -> np.ndarray:
    """Rows of zeros behind, so that few shapes are compiled."""
    return np.pad(x, ((0, size), *[(0, 0)] * (x.ndim - 1)))
