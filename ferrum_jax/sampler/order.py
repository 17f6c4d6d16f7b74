"""The one order of logits: higher first, equal ones by the lower token id.

Dimension key: R rows, V vocabulary.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def orderable(logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
    """The logits for `top_k`, which sorts by bits: one zero instead of two, no nan."""
    return jnp.where(jnp.isnan(logits), -jnp.inf, jnp.where(logits == 0, 0.0, logits))


def first_argmax(logits: Float[Array, "R V"]) -> Int[Array, " R"]:
    """The lowest id among the largest logits, int32; some valid id where a row holds nan.

    Two plain reductions: several times faster on a CPU than the paired reduction of `argmax`.
    """
    vocab = logits.shape[1]
    largest = logits == jnp.max(logits, axis=1, keepdims=True)
    ids = jnp.where(largest, jnp.arange(vocab, dtype=jnp.int32), vocab)
    return jnp.minimum(jnp.min(ids, axis=1), vocab - 1)


def precedes(
    logits: Float[Array, "R V"], value: Float[Array, " R"], token: Int[Array, " R"]
) -> Array:
    """bool [R, V]: which entries come strictly before the entry (`value`, `token`) of the row."""
    ids = jnp.arange(logits.shape[1], dtype=jnp.int32)
    value, token = value[:, None], token[:, None]
    return (logits > value) | ((logits == value) & (ids < token))
