"""Standard errors over documents, against formulas and against plain resampling."""

import math

import numpy as np
import pytest

from ferrum_jax.research.compare.bootstrap import Bootstrap, Estimate, percentiles
from ferrum_jax.types import RequestError


def mean_error(values, **options):
    """That of the mean of one value per document."""
    bootstrap = Bootstrap(len(values), **options)
    return bootstrap.errors(lambda w: (w @ values / w.sum(axis=1))[:, None])[0]


@pytest.mark.parametrize("count", [3, 20, 400])
def test_the_error_of_a_mean(count):
    values = np.random.default_rng(1).gamma(2, 3, count)
    expected = values.std(ddof=1) / math.sqrt(count)
    assert mean_error(values, resamples=8000) == pytest.approx(expected, rel=0.04)


def test_the_error_of_a_ratio_of_sums():
    """Cochran 1977, section 6.4: the spread of `sum - ratio * weight` over the mean weight."""
    rng = np.random.default_rng(2)
    weights = rng.integers(5, 50, 200).astype(float)
    sums = weights * rng.normal(2, 0.5, 200)
    residuals = (sums - sums.sum() / weights.sum() * weights) / weights.mean()
    expected = residuals.std(ddof=1) / math.sqrt(200)
    found = Bootstrap(200, 8000).errors(lambda w: ((w @ sums) / (w @ weights))[:, None])
    assert found[0] == pytest.approx(expected, rel=0.05)


def test_the_seed_decides():
    values = np.arange(10.0)
    assert mean_error(values, seed=1) == mean_error(values, seed=1) != mean_error(values, seed=2)


def test_blocks_do_not_matter(monkeypatch):
    values = np.arange(10.0)
    whole = mean_error(values, resamples=100)
    monkeypatch.setattr("ferrum_jax.research.compare.bootstrap.BLOCK_WEIGHTS", 70)
    assert mean_error(values, resamples=100) == pytest.approx(whole, rel=1e-12)


def test_one_document_has_no_error():
    assert math.isnan(mean_error(np.ones(1)))
    found = percentiles(np.arange(5.0), np.zeros(5, int), (50.0,), Bootstrap(1))
    assert found[50.0].value == 2
    assert math.isnan(found[50.0].error)


def test_rounding_is_no_error():
    assert mean_error(np.full(30, 0.1)) == 0


def test_percentiles_are_those_of_numpy():
    values = np.random.default_rng(3).normal(size=101)
    percents = (0.0, 0.1, 1.0, 25.0, 50.0, 99.9, 100.0)
    found = percentiles(values, np.arange(101) % 7, percents, Bootstrap(7, 10))
    for percent in percents:
        assert found[percent].value == pytest.approx(np.percentile(values, percent), rel=1e-12)


def test_errors_of_percentiles_are_those_of_resampled_documents():
    rng = np.random.default_rng(4)
    owner = np.sort(rng.integers(0, 6, 80))
    values = rng.normal(size=80)
    bootstrap, percents = Bootstrap(6, 50, seed=9), (10.0, 50.0, 97.0)
    drawn = [
        np.percentile(
            np.concatenate([np.tile(values[owner == d], n) for d, n in enumerate(row)]), percents
        )
        for block in bootstrap.weights()
        for row in block.astype(int)
    ]
    expected = np.std(drawn, axis=0) * math.sqrt(6 / 5)
    found = percentiles(values, owner, percents, bootstrap)
    np.testing.assert_allclose([found[p].error for p in percents], expected, rtol=1e-10)


def test_extremes_have_no_error():
    found = percentiles(np.arange(50.0), np.arange(50), (0.0, 50.0, 100.0), Bootstrap(50))
    assert math.isnan(found[0.0].error)
    assert math.isnan(found[100.0].error)
    assert found[50.0].error > 1


def test_estimates_show_two_digits_of_their_error():
    assert str(Estimate(3.14159, 0.0123)) == "3.142 ± 0.012"
    assert str(Estimate(3.14159)) == "3.1416"


@pytest.mark.parametrize("options", [{"resamples": 1}, {"resamples": 2.5}, {"seed": -1}])
def test_wrong_options(options):
    with pytest.raises(RequestError, match=next(iter(options))):
        Bootstrap(3, **options)
