"""The Kullback-Leibler divergence of distributions over the next token.

Dimension key: n tokens, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SERIES_BELOW = 0.1
"""|d| below which exp(d) - 1 - d is summed as a series: the difference would lose its digits."""


@jax.jit
def kl_divergence(log_a: Float[Array, "n V"], log_b: Float[Array, "n V"]) -> Float[Array, " n"]:
    """`KL(a || b)` of each row, in nats; never negative, and 0 for equal rows.

    Summed as `a (exp(d) - 1 - d)` with `d = log b - log a`. That is `a log(a / b) - a + b`, the
    Bregman form of the divergence: no term is negative, and a rounding error of a row's
    normalisation enters squared, where it would swamp a KLD below 1e-6 in `a log(a / b)`.
    """
    d = jnp.where(log_a == log_b, 0.0, log_b - log_a)  # -inf on both sides is no nan
    p_a, p_b = jnp.exp(log_a), jnp.exp(log_b)
    small = jnp.where(jnp.abs(d) < SERIES_BELOW, d, 0.0)
    series = small * small * (1 / 2 + small * (1 / 6 + small * (1 / 24 + small / 120)))
    direct = p_b - p_a - jnp.where(p_a > 0, p_a * d, 0.0)
    terms = jnp.where(jnp.abs(d) < SERIES_BELOW, p_a * series, jnp.maximum(direct, 0.0))
    return terms.sum(axis=-1)
