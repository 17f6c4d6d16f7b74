"""The residual sum and its norm in the interpreter, and its statement in jnp, against fp64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ferrum_jax.models.norm import normalise
from ferrum_jax.models.params import NormParams
from ferrum_jax.types import NormKind
from pallas_kernels.fused import add_rms_norm
from pallas_kernels.fused.norm import CHUNK, add_rms_norm_reference
from tests.kernels.triton import allow_deprecated, needs_triton

pytestmark = allow_deprecated
EPS = 1e-5
TOLERANCE = {"float32": 2e-5, "float16": 2.0**-11 + 2e-5, "bfloat16": 2.0**-8 + 2e-5}
"""Of a value, relative: half the distance to its neighbour, and fp32's own."""
CASES = {
    "a power of two": ((3, 64), jnp.float32, 0.0),
    "one element": ((2, 1), jnp.float32, 0.0),
    "an odd size": ((4, 77), jnp.float32, 1.0),
    "bf16": ((5, 80), jnp.bfloat16, 0.0),
    "bf16, offset": ((3, 200), jnp.bfloat16, 1.0),
    "f16": ((1, 96), jnp.float16, 0.0),
    "more than a chunk": ((2, CHUNK + 77), jnp.float32, 0.0),
    "two chunks, bf16": ((1, 2 * CHUNK), jnp.bfloat16, 1.0),
}


def arguments(shape, dtype):
    rng = np.random.default_rng([*shape])
    x, residual = (jnp.asarray(rng.normal(size=shape) * 3, dtype) for _ in range(2))
    return x, residual, jnp.asarray(rng.normal(size=shape[1]), dtype)


def oracle(x, residual, weight, offset):
    """In fp64, from the sum as it is rounded."""
    total = (np.asarray(x, np.float64) + np.asarray(residual, np.float64)).astype(x.dtype)
    exact = total.astype(np.float64)
    root = np.sqrt(np.mean(exact**2, axis=1, keepdims=True) + EPS)
    return exact / root * (offset + np.asarray(weight, np.float64)), total


def check(function, name, **options):
    shape, dtype, offset = CASES[name]
    given = arguments(shape, dtype)
    normed, total = function(*given, eps=EPS, offset=offset, **options)
    want_normed, want_total = oracle(*given, offset)
    assert normed.dtype == total.dtype == dtype
    np.testing.assert_array_equal(np.asarray(total), want_total)
    tolerance = TOLERANCE[normed.dtype.name]
    got = np.asarray(normed).astype(np.float64)
    np.testing.assert_allclose(got, want_normed, rtol=tolerance, atol=2e-5)


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_matches_fp64(name):
    check(add_rms_norm, name, interpret=True)


@pytest.mark.parametrize("name", CASES)
def test_the_reference_matches_fp64(name):
    check(add_rms_norm_reference, name)


@pytest.mark.parametrize(("kind", "offset"), [(NormKind.RMS, 0.0), (NormKind.RMS_UNIT_OFFSET, 1.0)])
def test_the_reference_has_the_bits_of_the_models_norm(kind, offset):
    x, residual, weight = arguments((4, 96), jnp.bfloat16)
    normed, total = add_rms_norm_reference(x, residual, weight, eps=EPS, offset=offset)
    params = NormParams(weight=weight)
    np.testing.assert_array_equal(normed, normalise(x + residual, params, kind, EPS))
    np.testing.assert_array_equal(total, x + residual)


@needs_triton
def test_a_token_has_its_own_bits_and_its_own_nan():
    x, residual, weight = arguments((4, 77), jnp.float32)
    clean = add_rms_norm(x, residual, weight, eps=EPS, interpret=True)
    poisoned = x.at[2, 5].set(jnp.nan)
    among = add_rms_norm(poisoned, residual, weight, eps=EPS, interpret=True)
    for got, want in zip(among, clean, strict=True):
        np.testing.assert_array_equal(got[jnp.array([0, 1, 3])], want[jnp.array([0, 1, 3])])
    assert np.all(np.isnan(among[0][2]))


@pytest.mark.parametrize("function", [add_rms_norm, add_rms_norm_reference])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": jnp.zeros(8)}, r"x is \(8,\); it must have 2 dimensions, none empty"),
        ({"x": jnp.zeros((0, 8))}, "none empty"),
        ({"x": jnp.zeros((2, 8), jnp.int32)}, "x is int32; cast it to bfloat16 or float16"),
        ({"residual": jnp.zeros((2, 9))}, r"residual is \(2, 9\); beside x \(2, 8\) it must be"),
        ({"residual": jnp.zeros((2, 8), jnp.bfloat16)}, "residual is bfloat16; cast it to float32"),
        ({"weight": jnp.zeros(9)}, r"weight is \(9,\); beside x \(2, 8\) it must be \(8,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(function, changes, message):
    given = {"x": jnp.zeros((2, 8)), "residual": jnp.zeros((2, 8)), "weight": jnp.zeros(8)}
    with pytest.raises(ValueError, match=message):
        function(**given | changes, eps=EPS)


def test_a_jax_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr("pallas_kernels.checks.has_triton", lambda: False)
    given = arguments((1, 3), jnp.float32)
    with pytest.raises(NotImplementedError, match="use add_rms_norm_reference"):
        add_rms_norm(*given, eps=EPS)
