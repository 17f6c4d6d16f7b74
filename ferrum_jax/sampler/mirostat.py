"""Mirostat (Basu et al. 2021): truncation steered so that the surprise stays near a target.

Surprise is `-log2 p(token)` under the distribution that mirostat is given, before it truncates: the
paper's, where llama.cpp measures under the truncated one. `mu`, the largest surprise allowed,
starts at 2 tau and after every token becomes `mu - eta (surprise - tau)`.

Dimension key: R rows, V vocabulary, M likeliest tokens that the exponent is estimated from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.sampler.order import first_argmax, orderable
from ferrum_jax.sampler.truncate import keep_top_k
from ferrum_jax.types import SamplingState

LIKELIEST = 100
"""M of the paper."""
LN2 = 0.6931471805599453


def limit_surprise(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """-inf for the tokens that mirostat drops; greedy rows keep all.

    Mode 1 keeps the k likeliest, k the number at which a Zipf law with the row's exponent has the
    surprise mu. Mode 2 keeps the tokens whose surprise is at most mu, and always the likeliest.
    """
    del lengths
    mode = jnp.where(state.temperature[slots] > 0, state.mirostat[slots], 0)
    mu = state.mirostat_mu[slots]

    def first() -> Array:
        k = jnp.where(mode == 1, zipf_count(logits, mu), logits.shape[1])
        return keep_top_k(logits, k)

    logits = jax.lax.cond(jnp.any(mode == 1), first, lambda: logits)

    def second() -> Array:
        likeliest = jnp.arange(logits.shape[1]) == first_argmax(logits)[:, None]
        keep = likeliest | (_log2(logits) >= -mu[:, None])
        return jnp.where(keep | (mode != 2)[:, None], logits, -jnp.inf)

    return jax.lax.cond(jnp.any(mode == 2), second, lambda: logits)


def next_mu(
    logits: Float[Array, "R V"],
    tokens: Int[Array, " R"],
    state: SamplingState,
    slots: Int[Array, " R"],
) -> Float[Array, " R"]:
    """mu after these tokens; `logits` as they were before mirostat truncated them."""
    mu = state.mirostat_mu[slots]
    steered = (state.temperature[slots] > 0) & (state.mirostat[slots] > 0)

    def moved() -> Array:
        rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)
        surprise = -_log2(logits)[rows, tokens]
        error = surprise - state.mirostat_tau[slots]
        return jnp.where(steered, mu - state.mirostat_eta[slots] * error, mu)

    return jax.lax.cond(jnp.any(steered), moved, lambda: mu)


def zipf_count(logits: Float[Array, "R V"], mu: Float[Array, " R"]) -> Int[Array, " R"]:
    """k of mirostat 1: `((s - 1) 2^mu / (1 - V^(1 - s)))^(1 / s)`, rounded, from 1 to V.

    s is the exponent of Zipf's law by least squares over the M likeliest tokens: the sum of
    `t_i b_i` by that of `t_i^2`, `t_i = log((i + 1) / i)` and `b_i = log(p_i / p_{i+1})`.
    """
    vocab = logits.shape[1]
    top, _ = jax.lax.top_k(orderable(logits), min(LIKELIEST, vocab))
    exists = top[:, 1:] > -jnp.inf
    ranks = jnp.arange(1, top.shape[1], dtype=jnp.float32)
    t = jnp.where(exists, jnp.log1p(1 / ranks), 0.0)
    b = jnp.where(exists, top[:, :-1] - top[:, 1:], 0.0)
    squares = jnp.sum(t * t, axis=1)
    s = jnp.sum(t * b, axis=1) / jnp.where(squares > 0, squares, 1.0)
    s = jnp.maximum(s, 1e-3)
    # (s - 1) / (1 - V^(1 - s)), whose limit at s = 1 is 1 / log V.
    log_vocab = jnp.log(jnp.float32(max(vocab, 2)))
    exponent = s - 1
    flat = jnp.abs(exponent) < 1e-4
    safe = jnp.where(flat, 1.0, exponent)
    factor = jnp.where(flat, 1 / log_vocab, safe / -jnp.expm1(-safe * log_vocab))
    log_k = (mu * LN2 + jnp.log(factor)) / s
    k = jnp.round(jnp.exp(jnp.clip(log_k, 0.0, log_vocab)))
    return jnp.where(squares > 0, jnp.clip(k, 1, vocab), 1).astype(jnp.int32)


def _log2(logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
    return jax.nn.log_softmax(logits, axis=1) / LN2
