"""AWQ: its factors and cuts are the best of those that it tries, and large inputs gain by it."""

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.quantized import matrix_of, nearest, quantise, scales_of
from ferrum_jax.runtime.quantize.awq import CUTS, POWERS, awq

INPUTS, OUTPUTS, ROWS = 64, 12, 400
GROUPS = {"int8": None, "fp8": None, "int4": 32}


@pytest.fixture(scope="module")
def case():
    """A few inputs are 30 times as large as the others, as in language models."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, INPUTS)) @ (np.eye(INPUTS) + 0.1 * rng.normal(size=(INPUTS, INPUTS)))
    x[:, [3, 40, 41]] *= 30
    return x.astype(np.float32), rng.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)


def gram(x):
    return x.T.astype(np.float64) @ x


def weights(found, group):
    values, scales, factors = found
    scales = scales[None] if group is None else np.repeat(scales, group, axis=0)
    return values * scales * factors[:, None]


def error(x, w, rounded):
    return np.square(x @ (rounded - w)).sum()


@pytest.mark.parametrize("kind", GROUPS)
def test_it_is_the_best_power_with_the_best_cuts(case, kind):
    x, w = case
    group = GROUPS[kind] or INPUTS

    def rounded(power, cuts):
        s = np.sqrt(np.diag(gram(x))) ** power
        s = (s / np.sqrt(s.max() * s.min()))[:, None]
        groups = (w * s).reshape(-1, group, OUTPUTS)
        step = (scales_of(groups, kind) * cuts)[:, None, :]
        return (nearest(groups / step, kind) * step).reshape(w.shape) / s

    ones = np.ones((INPUTS // group, OUTPUTS))
    power = min(POWERS, key=lambda a: error(x, w, rounded(a, ones)))
    best = np.ones_like(ones)
    for g in range(INPUTS // group):
        part = slice(g * group, (g + 1) * group)
        errors = [
            np.square(x[:, part] @ (rounded(power, ones * cut) - w)[part]).sum(axis=0)
            for cut in CUTS
        ]
        best[g] = CUTS[np.argmin(errors, axis=0)]
    found = weights(awq(w, gram(x), kind, GROUPS[kind]), GROUPS[kind])
    expected = rounded(power, best)
    assert power > 0
    # Two cuts of one error may be told apart by rounding.
    assert np.isclose(found, expected, rtol=1e-4, atol=1e-5).mean() > 0.95
    assert error(x, w, found) == pytest.approx(error(x, w, expected), rel=1e-2)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_outputs_are_nearer_than_with_each_weight_to_its_nearest(case, kind):
    x, w = case
    found = weights(awq(w, gram(x), kind, GROUPS[kind]), GROUPS[kind])
    plain = np.asarray(quantise("layer.mlp.down", w, "float32", kind))
    assert error(x, w, found) < 0.3 * error(x, w, plain)


def test_a_matrix_with_factors_multiplies_as_the_weights_that_it_stands_for(case):
    x, w = case
    for kind, group in GROUPS.items():
        found = awq(w, gram(x), kind, group)
        made = matrix_of(*found[:2], kind, w.shape, "float32", found[2])
        np.testing.assert_allclose(np.asarray(made), weights(found, group), rtol=1e-6)
        expected = x.astype(np.float64) @ weights(found, group)
        np.testing.assert_allclose(np.asarray(x @ made), expected, rtol=1e-4, atol=1e-3)


def test_an_input_that_is_always_zero_moves_nothing(case):
    x, w = case
    x = x.copy()
    x[:, 7] = 0
    found = awq(w, gram(x), "int4", 32)
    assert all(np.isfinite(part).all() for part in found)
    assert error(x, w, weights(found, 32)) < 0.05 * np.square(x @ w).sum()
    nothing = awq(w, np.zeros((INPUTS, INPUTS)), "int4", 32)
    np.testing.assert_array_equal(nothing[2], 1)


def test_activations_that_are_not_finite_are_refused(case):
    _, w = case
    bad = np.eye(INPUTS)
    bad[3, 4] = np.inf
    with pytest.raises(fj.RequestError, match="not finite"):
        awq(w, bad, "int8", None)
