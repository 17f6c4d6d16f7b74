"""The comparison of single rows, against numpy in float64 and against numbers made by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from ferrum_jax.research.compare.rows import bucketed, compare_rows
from ferrum_jax.research.divergence import kl_divergence


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def divergence(a, b):
    """KL of two rows of logits by its definition, float64."""
    log_a, log_b = log_softmax(a), log_softmax(b)
    return (np.exp(log_a) * (log_a - log_b)).sum(axis=-1)


def compared(a, b, targets):
    sides = ({"logits": np.asarray(x, np.float32)} for x in (a, b))
    return compare_rows(*sides, np.asarray(targets, np.int32))


def test_by_hand():
    a, b = np.log([[0.5, 0.5, 1e-30]]), np.log([[0.25, 0.75, 1e-30]]) + 7
    found = compared(a, b, [0])
    assert found.kld[0] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-6)
    assert found.nll_a[0] == pytest.approx(math.log(2), rel=1e-6)
    assert found.nll_b[0] == pytest.approx(math.log(4), rel=1e-6)
    assert found.top_a[0] == 0
    assert found.top_b[0] == 1
    assert found.p_top_a[0] == pytest.approx(0.5, rel=1e-6)
    assert found.p_top_b[0] == pytest.approx(0.75, rel=1e-6)


def test_the_base_is_a():
    a, b = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])
    assert compared(a, b, [0]).kld[0] == pytest.approx(0.3680642, rel=1e-5)
    assert compared(b, a, [0]).kld[0] == pytest.approx(0.5108256, rel=1e-5)


@pytest.mark.parametrize("distance", [3.0, 0.3, 1e-2, 1e-4])
def test_random_rows(distance):
    rng = np.random.default_rng(0)
    a = np.asarray(rng.normal(15, 4, (13, 500)), np.float32)
    b = np.asarray(a + distance * rng.standard_normal(a.shape), np.float32)
    targets = rng.integers(0, 500, 13)
    found = compared(a, b, targets)
    every = np.arange(13)
    np.testing.assert_allclose(found.kld, divergence(a, b), rtol=2e-5, atol=1e-11)
    np.testing.assert_allclose(found.nll_a, -log_softmax(a)[every, targets], rtol=1e-5)
    np.testing.assert_allclose(found.nll_b, -log_softmax(b)[every, targets], rtol=1e-5)
    np.testing.assert_array_equal(found.top_a, a.argmax(axis=1))
    np.testing.assert_array_equal(found.top_b, b.argmax(axis=1))
    np.testing.assert_allclose(found.p_top_b, np.exp(log_softmax(b).max(axis=1)), rtol=1e-5)


def test_a_shift_of_all_logits_is_no_difference():
    a = np.asarray(np.random.default_rng(0).normal(0, 4, (5, 300)), np.float32)
    assert compared(a, a + np.float32(64), [0] * 5).kld.max() < 1e-10


def test_equal_rows_differ_by_exactly_nothing():
    a = np.random.default_rng(0).normal(0, 9, (11, 700))
    found = compared(a, a.copy(), [3] * 11)
    assert not found.kld.any()
    np.testing.assert_array_equal(found.nll_a, found.nll_b)


def test_impossible_ids():
    some = np.log([[0.5, 0.25, 0.25]])
    never = np.asarray([[math.log(2 / 3), math.log(1 / 3), -np.inf]])
    assert compared(never, never, [0]).kld[0] == 0
    assert compared(some, never, [0]).kld[0] == np.inf
    exact = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(4 / 3)
    assert compared(never, some, [0]).kld[0] == pytest.approx(exact, rel=1e-6)


def test_certain_rows():
    """Probabilities that are 0 in float32."""
    a, b = np.asarray([[0.0, -200.0]]), np.asarray([[-200.0, 0.0]])
    assert compared(a, b, [0]).kld[0] == pytest.approx(200, rel=1e-6)


def test_rows_do_not_depend_on_their_neighbours():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 3, (2, 19, 300))
    whole = compared(a, b, [1] * 19)
    for i in range(19):
        alone = compared(a[i : i + 1], b[i : i + 1], [1])
        assert alone.kld[0] == pytest.approx(whole.kld[i], rel=1e-5)
        assert alone.nll_b[0] == pytest.approx(whole.nll_b[i], rel=1e-6)


def test_buckets_by_hand():
    log_probs = jnp.log(jnp.asarray([[0.1, 0.2, 0.3, 0.4]]))
    found = np.exp(bucketed(log_probs, jnp.asarray([[3, 1]])))
    np.testing.assert_allclose(found, [[0.4, 0.2, 0.4]], rtol=1e-6)


def test_buckets_bound_the_divergence_from_below():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(log_softmax(x), jnp.float32) for x in rng.normal(0, 2, (2, 40, 200)))
    whole = np.asarray(kl_divergence(a, b))
    last = np.zeros(40)
    for count in (1, 10, 100, 199):
        ids = jnp.argsort(-a, axis=1)[:, :count]
        bound = np.asarray(kl_divergence(bucketed(a, ids), bucketed(b, ids)))
        assert (bound <= whole * (1 + 1e-5)).all()
        assert (bound >= last - 1e-6).all()
        last = bound
    np.testing.assert_allclose(last, whole, rtol=1e-4)
