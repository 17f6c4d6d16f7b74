"""Mirostat 1 and 2 against a plain statement of Basu et al. 2021, and what they steer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ferrum_jax.sampler import limit_surprise, sample
from ferrum_jax.types import SamplingParams
from tests.sampler.batch import (
    ALL,
    ROWS,
    SLOTS,
    VOCAB,
    chi_squared,
    lengths_of,
    make_state,
    random_logits,
    same_params,
)

limit, draw = jax.jit(limit_surprise), jax.jit(sample)


def probabilities(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def zipf_k(p, mu, likeliest=100):
    """Algorithm 1 of the paper: the exponent by least squares, then k; not rounded."""
    p = np.sort(p)[::-1][:likeliest]
    p = p[p > 0]
    i = np.arange(1, len(p))
    t, b = np.log((i + 1) / i), np.log(p[:-1] / p[1:])
    s = max(np.sum(t * b) / np.sum(t * t), 1e-3)
    epsilon = s - 1
    return ((epsilon * 2**mu) / (1 - VOCAB**-epsilon)) ** (1 / s)


def state_of(mode, mu, **changes):
    params = SamplingParams(mirostat={"mode": mode, **changes})
    return make_state([params] * ROWS).replace(mirostat_mu=jnp.asarray(mu, jnp.float32))


MUS = st.lists(st.floats(0.01, 12), min_size=ROWS + 1, max_size=ROWS + 1)


@settings(max_examples=30)
@given(st.integers(0, 999), MUS)
def test_mode_1_keeps_as_many_as_zipfs_law_says(seed, mu):
    logits = random_logits(seed)
    out = np.asarray(limit(logits, state_of(1, mu), SLOTS, lengths_of(0)))
    for row in range(ROWS):
        k = np.clip(zipf_k(probabilities(logits[row]), np.float32(mu[row])), 0, 2 * VOCAB)
        if abs(k % 1 - 0.5) < 1e-3:
            continue  # rounding may decide
        kept = np.flatnonzero(out[row] > -np.inf)
        want = np.argsort(-logits[row], kind="stable")[: int(np.clip(np.round(k), 1, VOCAB))]
        assert kept.tolist() == sorted(want.tolist())


@settings(max_examples=30)
@given(st.integers(0, 999), MUS)
def test_mode_2_keeps_what_surprises_at_most_by_mu(seed, mu):
    logits = random_logits(seed)
    surprise = np.stack([-np.log2(probabilities(row)) for row in logits])
    limits = np.asarray(mu, np.float32)[:ROWS, None]
    assume(np.abs(surprise - limits).min() > 1e-4)
    out = np.asarray(limit(logits, state_of(2, mu), SLOTS, lengths_of(0)))
    want = (surprise <= limits) | (surprise == surprise.min(axis=1, keepdims=True))
    np.testing.assert_array_equal(out > -np.inf, want)


@pytest.mark.parametrize("mode", [1, 2])
def test_mu_moves_by_the_error_of_the_surprise(mode):
    mu = np.linspace(2, 8, ROWS + 1)
    state = state_of(mode, mu, tau=3.0, eta=0.25)
    logits = random_logits(5)
    out = draw(logits, state, SLOTS, lengths_of(4), ALL)
    for row, token in enumerate(out.tokens.tolist()):
        surprise = -np.log2(probabilities(logits[row])[token])
        want = mu[row] - 0.25 * (surprise - 3.0)
        np.testing.assert_allclose(out.mirostat_mu[row], want, rtol=1e-5)


@pytest.mark.parametrize("mode", [1, 2])
def test_draws_follow_the_truncated_softmax(mode):
    count = 4096
    logits = random_logits(7)[0]
    state = state_of(mode, [3.5] * (ROWS + 1))
    kept = np.asarray(limit(np.tile(logits, (ROWS, 1)), state, SLOTS, lengths_of(0)))[0]
    assert 2 < np.sum(kept > -np.inf) < VOCAB
    rows = np.arange(count, dtype=np.int32)
    tiled = np.tile(logits, (count, 1))
    tokens = draw(tiled, state, 0 * rows, rows, np.ones(count, bool)).tokens
    statistic, freedom = chi_squared(np.asarray(tokens), probabilities(kept))
    assert statistic < freedom + 3.3 * np.sqrt(2 * freedom) + 8


@pytest.mark.one_jax
@pytest.mark.parametrize("mode", [1, 2])
def test_the_mean_surprise_comes_to_tau(mode):
    """A Zipf distribution over 5000 tokens, whose own entropy is well above the target."""
    vocab, steps, tau = 5000, 300, 4.0
    logits = -1.1 * np.log(np.arange(1, vocab + 1, dtype=np.float32))
    p = probabilities(logits)
    assert -np.sum(p * np.log2(p)) > tau + 2
    state = state_of(mode, [2 * tau] * (ROWS + 1), tau=tau)
    state = state.replace(allowed=jnp.zeros((ROWS + 1, 1, vocab // 32 + 1), jnp.uint32))
    rows = jnp.asarray(np.tile(logits, (ROWS, 1)))
    seen = []
    for step in range(steps):
        out = draw(rows, state, SLOTS, lengths_of(step), ALL)
        seen.append(-np.log2(p[np.asarray(out.tokens)]))
        state = state.replace(mirostat_mu=state.mirostat_mu.at[SLOTS].set(out.mirostat_mu))
    # The feedback holds the running mean to tau by (mu_0 - mu_n) / (eta n).
    assert abs(np.mean(seen[50:]) - tau) < 0.15


def test_greedy_rows_and_neighbours_are_left_alone():
    params = [
        SamplingParams(temperature=0, mirostat={"mode": 2, "tau": 0.1}),
        SamplingParams(mirostat={"mode": 2, "tau": 0.1}),
        *same_params()[2:],
    ]
    state, logits = make_state(params), random_logits(2)
    out = np.asarray(limit(logits, state, SLOTS, lengths_of(0)))
    np.testing.assert_array_equal(out[0], logits[0])
    np.testing.assert_array_equal(out[2:], logits[2:])
    assert np.sum(out[1] > -np.inf) == 1
    moved = np.asarray(draw(logits, state, SLOTS, lengths_of(0), ALL).mirostat_mu)
    assert moved[0] == np.float32(0.2)
    assert moved[1] != np.float32(0.2)
    assert not moved[2:].any()
