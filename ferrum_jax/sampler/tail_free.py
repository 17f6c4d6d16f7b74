"""Tail-free sampling (Phenix and Egan 2019): cut where the sorted probabilities become flat.

Dimension key: R rows, V vocabulary.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.sampler.order import orderable


def num_before_tail(logits: Float[Array, "R V"], z: Float[Array, " R"]) -> Int[Array, " R"]:
    """How many of the likeliest tokens stand before the tail.

    With p the probabilities in descending order, `d_i = p_i - p_{i+1}` and `c_i` the running sum of
    `|d_i - d_{i+1}|`, normalised to end at 1: one more than the number of i with `c_i <= z`. Tokens
    that were dropped before have probability 0. All are kept where the curve has no bend, and where
    z is 1.
    """
    vocab = logits.shape[1]
    if vocab < 3:
        return jnp.full(logits.shape[0], vocab, jnp.int32)
    descending = -jnp.sort(-orderable(logits), axis=1)
    mass = jnp.exp(descending - descending[:, :1])
    bends = jnp.abs(jnp.diff(jnp.diff(mass, axis=1), axis=1))
    running = jnp.cumsum(bends, axis=1)
    total = running[:, -1]
    kept = 1 + jnp.sum(running <= (z * total)[:, None], axis=1, dtype=jnp.int32)
    return jnp.where((z >= 1) | (total == 0), vocab, kept)
