"""GPTQ against least squares solved anew after every input, which is what it is a shortcut for."""

import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.quantized import nearest, scales_of
from ferrum_jax.runtime.quantize.gptq import gptq

INPUTS, OUTPUTS, ROWS = 160, 24, 600
GROUPS = {"int8": None, "fp8": None, "int4": 32}


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(INPUTS, INPUTS)) * 0.1 + np.eye(INPUTS)
    x = (rng.normal(size=(ROWS, INPUTS)) @ mixing).astype(np.float32)
    w = rng.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)
    return x, w


def spread(scales, group):
    return scales[None] if group is None else np.repeat(scales, group, axis=0)


def solved_anew(x, w, kind, group):
    """Round inputs in turn; the others are what comes closest to `x w` with those."""
    x, target = x.astype(np.float64), x.astype(np.float64) @ w
    rest, values, weights = w.astype(np.float64), np.zeros_like(w), np.zeros(w.shape)
    scales = scales_of(w, kind) if group is None else None
    for i in range(len(w)):
        if group is not None and i % group == 0:
            scales = scales_of(rest[:group].astype(np.float32), kind)
        values[i] = nearest((rest[0] / scales).astype(np.float32), kind)
        weights[i] = values[i] * scales
        if i + 1 < len(w):
            left = target - x[:, : i + 1] @ weights[: i + 1]
            rest = np.linalg.lstsq(x[:, i + 1 :], left, rcond=None)[0]
    return values


@pytest.mark.parametrize("kind", GROUPS)
def test_it_rounds_as_least_squares_solved_anew(case, kind):
    x, w = case
    values, scales = gptq(w, x.T.astype(np.float64) @ x, kind, GROUPS[kind], 1e-9)
    assert scales.shape == ((OUTPUTS,) if GROUPS[kind] is None else (INPUTS // 32, OUTPUTS))
    expected = solved_anew(x, w, kind, GROUPS[kind])
    # A weight in the middle of two values may go to either; what follows it differs then.
    assert (values == expected).mean() > 0.97


@pytest.mark.parametrize("kind", GROUPS)
def test_outputs_are_nearer_than_with_each_weight_to_its_nearest(case, kind):
    x, w = case
    group = GROUPS[kind]
    values, scales = gptq(w, x.T.astype(np.float64) @ x, kind, group, 0.01)
    plain_scales = scales_of(w.reshape(-1, group or INPUTS, OUTPUTS), kind)
    each = np.repeat(plain_scales, group or INPUTS, axis=0)
    plain = nearest(w / each, kind) * each
    found = np.linalg.norm(x @ (values * spread(scales, group) - w))
    assert found < 0.8 * np.linalg.norm(x @ (plain - w))
    np.testing.assert_array_equal(nearest(values, kind), values)


def test_inputs_that_have_nothing_to_do_with_each_other_go_to_their_nearest(case):
    _, w = case
    values, scales = gptq(w, np.diag(np.linspace(1, 2, INPUTS)), "int8", None, 0.01)
    np.testing.assert_array_equal(values, nearest(w / scales, "int8"))
    np.testing.assert_array_equal(scales, scales_of(w, "int8"))


def test_an_input_that_is_always_zero_does_not_matter(case):
    x, w = case
    x = x.copy()
    x[:, [0, 77]] = 0
    values, scales = gptq(w, x.T.astype(np.float64) @ x, "int4", 32, 0.01)
    assert np.isfinite(scales).all()
    np.testing.assert_array_equal(values[[0, 77]], 0)


def test_fewer_tokens_than_inputs_are_enough_with_damping(case):
    x, w = case
    few = x[:40].astype(np.float64)
    values, scales = gptq(w, few.T @ few, "int4", 32, 0.01)
    assert np.isfinite(values).all()
    assert np.abs(few @ (values * spread(scales, 32) - w)).max() < np.abs(few @ w).max()


def test_activations_that_are_not_finite_are_refused(case):
    _, w = case
    gram = np.eye(INPUTS)
    gram[3, 4] = np.nan
    with pytest.raises(fj.RequestError, match="not finite"):
        gptq(w, gram, "int8", None, 0.01)
