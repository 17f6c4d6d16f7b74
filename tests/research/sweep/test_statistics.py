"""Values, errors and paired differences against numbers worked out by hand, and a bootstrap."""

import math

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.research.sweep.statistics import checked_values, paired_difference
from tests.research.sweep.tables import document_values


def test_with_equal_weights_the_value_is_the_mean_and_the_error_the_textbooks():
    values = document_values([2.0, 4.0, 9.0])
    assert values.value == 5.0
    # Deviations -3, -1, 4: variance 26 / 2 = 13, error sqrt(13 / 3).
    assert values.error == pytest.approx(math.sqrt(13 / 3))


def test_long_documents_weigh_more():
    values = document_values([10.0, 2.0], weights=[8.0, 2.0])
    assert values.value == 12 / 10
    # Residuals 10 - 1.2 * 8 = 0.4 and 2 - 1.2 * 2 = -0.4, over the mean weight 5: 0.08 and -0.08.
    # Variance 2 * 0.08^2 / 1, error sqrt(variance / 2) = 0.08.
    assert values.error == pytest.approx(0.08)


def test_one_document_has_no_error():
    values = document_values([3.0])
    assert values.value == 3.0
    assert math.isnan(values.error)


def test_a_difference_is_paired_and_signed():
    old = document_values([2.0, 4.0])
    assert paired_difference(document_values([3.0, 5.0]), old) == (1.0, 0.0)
    # Differences 1 and 3: mean 2, variance 2, error sqrt(2 / 2).
    assert paired_difference(document_values([3.0, 7.0]), old) == (2.0, pytest.approx(1.0))
    assert paired_difference(old, document_values([3.0, 7.0])) == (-2.0, pytest.approx(1.0))


def test_errors_agree_with_a_bootstrap_over_documents():
    rng = np.random.default_rng(1)
    weights = rng.integers(20, 200, 80).astype(float)
    hard = rng.normal(3.0, 0.5, 80)
    old = document_values(weights * hard, weights)
    new = document_values(weights * (hard + rng.normal(0.1, 0.1, 80)), weights)
    draws = rng.integers(0, 80, (4000, 80))
    totals = weights[draws].sum(1)
    resampled_old = old.sums[draws].sum(1) / totals
    resampled_new = new.sums[draws].sum(1) / totals
    assert old.error == pytest.approx(resampled_old.std(), rel=0.06)
    difference, error = paired_difference(new, old)
    assert difference == pytest.approx((new.sums.sum() - old.sums.sum()) / weights.sum())
    assert error == pytest.approx((resampled_new - resampled_old).std(), rel=0.06)
    assert error < 0.5 * old.error


@pytest.mark.parametrize(
    ("values", "count", "says"),
    [
        (document_values([1.0, 2.0]), 3, "2 values, and 3 for the baseline"),
        (document_values([]), None, "measured nothing"),
        (document_values([0.0], weights=[0.0]), None, "measured nothing"),
        (document_values([1.0, math.nan]), 2, "nan for document 1"),
        (document_values([math.inf]), 1, "inf for document 0"),
    ],
)
def test_what_is_no_measurement_is_refused(values, count, says):
    with pytest.raises(fj.RequestError, match=says):
        checked_values(values, count)
