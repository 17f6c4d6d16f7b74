"""Eight-bit keys and values: how far off they are, and what becomes of zero, tiny, nan and inf."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.attention.quantize import LARGEST, as_stored, dequantise, from_stored, quantise
from ferrum_jax.types import DataType

DTYPES = (DataType.INT8, DataType.FLOAT8_E4M3FN)
TINY = np.finfo(np.float32).tiny
ROUNDING = 1e-6
"""Relative slack for the fp32 division and product themselves."""


def _bound(x, scales, dtype):
    """The largest error that the format allows, per element."""
    if dtype is DataType.INT8:
        return np.broadcast_to(scales[..., None] / 2, x.shape)
    return np.maximum(np.abs(x) / 16, scales[..., None] / 1024)


def _check(x, dtype):
    values, scales = quantise(jnp.asarray(x), dtype)
    assert values.dtype == dtype.value
    assert (scales.shape, scales.dtype) == (x.shape[:-1], np.float32)
    assert (np.asarray(scales) > 0).all()
    held = np.asarray(dequantise(values, scales), np.float64)
    scales = np.asarray(scales, np.float64)
    assert (np.abs(held - x) <= _bound(x, scales, dtype) + ROUNDING * np.abs(x) + TINY).all()
    return np.asarray(values), scales, held


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e4, 1e30])
def test_the_error_is_within_the_bound_of_the_format(dtype, size):
    x = np.random.default_rng(0).standard_normal((50, 3, 64), np.float32) * np.float32(size)
    values, scales, held = _check(x, dtype)
    top = np.abs(x).max(-1)
    np.testing.assert_allclose(scales, top / LARGEST[dtype], rtol=1e-6)
    np.testing.assert_allclose(np.abs(held).max(-1), top, rtol=1e-6)
    assert np.abs(values.astype(np.float32)).max() == LARGEST[dtype]


def _heads():
    """Arrays `[T, K, H]` of finite floats of one magnitude or of many."""
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
    wide = st.floats(-(2.0**99), 2.0**99, width=32)
    return shapes.flatmap(
        lambda shape: hnp.arrays(
            np.float32, shape, elements=st.one_of(wide, st.floats(-1, 1, width=32))
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(x=_heads())
def test_any_finite_head_keeps_the_bound_and_its_signs(x, dtype):
    values, _, held = _check(x, dtype)
    assert not np.isnan(values.astype(np.float32)).any()
    assert (held * x.astype(np.float64) >= 0).all()
    negative, _, _ = _check(-x, dtype)
    np.testing.assert_array_equal(negative.astype(np.float32), -values.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_head_depends_on_itself_alone(dtype, optimised):
    """Bit for bit, also where XLA compiles other loops for the other shape."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((33, 2, 64), np.float32))
    compiled = jax.jit(quantise, static_argnums=1)
    values, scales = compiled(x, dtype)
    for t in range(33):
        one, scale = compiled(x[t : t + 1], dtype)
        np.testing.assert_array_equal(one[0], values[t])
        np.testing.assert_array_equal(scale[0], scales[t])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_have_scale_one_and_so_has_what_is_too_small_to_scale(dtype):
    x = jnp.asarray([0.0, TINY, LARGEST[dtype] * TINY / 2])[:, None, None] * jnp.ones((3, 2, 5))
    values, scales = quantise(x, dtype)
    np.testing.assert_array_equal(scales, np.ones((3, 2)))
    np.testing.assert_array_equal(values.astype(jnp.float32), np.zeros((3, 2, 5)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_a_head_with_nan_or_infinity_reads_as_nan_and_its_neighbours_do_not(
    dtype, value, kind, optimised
):
    x = np.random.default_rng(2).standard_normal((33, 2, 64), np.float32)
    clean, _ = quantise(jnp.asarray(x, kind), dtype)
    x[7, 1, 63] = value
    values, scales = jax.jit(quantise, static_argnums=1)(jnp.asarray(x, kind), dtype)
    is_nan = np.zeros((33, 2), bool)
    is_nan[7, 1] = True
    np.testing.assert_array_equal(np.isnan(scales), is_nan)
    np.testing.assert_array_equal(np.isnan(dequantise(values, scales)).all(-1), is_nan)
    stored = as_stored(values, dtype)
    np.testing.assert_array_equal(np.asarray(stored)[7, 1], 0)
    np.testing.assert_array_equal(stored[~is_nan], as_stored(clean, dtype)[~is_nan])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_every_stored_number_is_read_exactly(kind, optimised):
    codes = jnp.arange(256, dtype=jnp.uint8)
    read = jax.jit(from_stored, static_argnums=1)
    expected = np.asarray(codes.view(jnp.float8_e4m3fn)).astype(np.float64)
    is_nan = np.isnan(expected)
    assert is_nan.sum() == 2
    got = np.asarray(read(codes, kind)).astype(np.float64)
    np.testing.assert_array_equal(got[~is_nan], expected[~is_nan])
    assert np.isfinite(got).all()
    signed = jnp.arange(-127, 128).astype(jnp.int8)
    np.testing.assert_array_equal(np.asarray(read(signed, kind)).astype(int), np.arange(-127, 128))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_stored_is_what_was_quantised(dtype):
    x = jnp.asarray(np.random.default_rng(3).standard_normal((9, 2, 32), np.float32))
    values, _ = quantise(x, dtype)
    stored = as_stored(values, dtype)
    assert stored.dtype == dtype.stored
    np.testing.assert_array_equal(from_stored(stored, jnp.float32), values.astype(jnp.float32))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_what_is_not_quantised_is_read_as_it_lies(kind):
    x = jnp.arange(8, dtype=kind)
    assert from_stored(x, jnp.float32) is x
