"""Rows times rounded weights in the interpreter, and its statement in jnp, against fp64 numpy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrum_jax.models.quantized import QuantizedMatrix, quantise
from pallas_kernels.fused.quantised_matmul import quantised_matmul, quantised_matmul_reference
from tests.kernels.triton import allow_deprecated, needs_triton

pytestmark = allow_deprecated
TOLERANCE = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.5e-2}
"""Relative to the size of the sums, sqrt(sum of squared terms)."""
DTYPES = tuple(TOLERANCE)
KINDS = ("int8", "fp8", "int4")
SHAPES = {
    "one row": (1, 96, 80),
    "smallest": (1, 16, 1),
    "odd": (5, 80, 37),
    "several tiles of outputs": (3, 64, 150),
    "several splits": (2, 1056, 20),
    "tiles of rows": (70, 144, 24),
}
"""Rows, inputs and outputs."""


def make(shape: tuple[int, int, int], kind: str, dtype: str) -> tuple[jax.Array, QuantizedMatrix]:
    T, inputs, outputs = shape
    rng = np.random.default_rng([*shape, KINDS.index(kind)])
    weights = rng.normal(size=(inputs, outputs)).astype(np.float32)
    matrix = quantise("layers.0.mlp.up", weights, dtype, kind)
    assert matrix.kind == kind
    return jnp.asarray(rng.normal(size=(T, inputs)), dtype), jax.device_put(matrix)


def error_of(got: jax.Array, x: jax.Array, weights: Any) -> float:
    """The largest error, relative to the size of its sum."""
    x, weights = np.asarray(x).astype(np.float64), np.asarray(weights).astype(np.float64)
    size = np.sqrt(np.square(x) @ np.square(weights))
    return float(np.max(np.abs(np.asarray(got).astype(np.float64) - x @ weights) / size))


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_matches_fp64(name, kind, dtype):
    x, matrix = make(SHAPES[name], kind, dtype)
    got = quantised_matmul(x, matrix.values, matrix.scales, interpret=True)
    assert got.dtype == x.dtype
    assert error_of(got, x, matrix) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_matches_fp64(kind, dtype):
    x, matrix = make(SHAPES["odd"], kind, dtype)
    got = quantised_matmul_reference(x, matrix.values, matrix.scales)
    assert got.dtype == x.dtype
    assert error_of(got, x, matrix) < TOLERANCE[dtype]


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_the_matrix_of_a_model(kind, dtype):
    x, matrix = make((9, 192, 48), kind, dtype)
    got = quantised_matmul(x, matrix.values, matrix.scales, interpret=True)
    assert error_of(got, x, matrix) < TOLERANCE[dtype]
    np.testing.assert_allclose(
        np.asarray(got, np.float32),
        np.asarray(x @ matrix, np.float32),
        rtol=0,
        atol=TOLERANCE[dtype] * 192**0.5 * 2,
    )


@needs_triton
@pytest.mark.parametrize(
    ("inputs", "groups"), [(48, 2), (144, 6), (144, 2), (560, 2), (20, 10), (96, 8)]
)
def test_groups_of_int4_may_have_any_size(inputs, groups):
    """No power of two, more than a block, fewer than a matrix unit takes."""
    rng = np.random.default_rng([inputs, groups])
    values = rng.integers(0, 256, size=(inputs // 2, 40), dtype=np.uint8)
    scales = rng.uniform(0.5, 2, size=(groups, 40)).astype(np.float32)
    x = jnp.asarray(rng.normal(size=(4, inputs)), jnp.float32)
    got = quantised_matmul(x, jnp.asarray(values), jnp.asarray(scales), interpret=True)
    weights = np.concatenate([values & 15, values >> 4]).astype(np.float64) - 8
    assert error_of(got, x, weights * np.repeat(scales, inputs // groups, axis=0)) < 2e-5


@needs_triton
def test_the_bits_of_fp8_are_its_numbers():
    x, matrix = make(SHAPES["odd"], "fp8", "bfloat16")
    bits = jax.lax.bitcast_convert_type(matrix.values, jnp.uint8)
    run = {"interpret": True}
    numbers = quantised_matmul(x, matrix.values, matrix.scales, **run)
    assert np.array_equal(numbers, quantised_matmul(x, bits, matrix.scales, **run))
    assert np.array_equal(
        quantised_matmul_reference(x, matrix.values, matrix.scales),
        quantised_matmul_reference(x, bits, matrix.scales),
    )


@needs_triton
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_stays_in_its_row_and_its_output(kind):
    """No row, output or input is read in the place of one that does not exist."""
    x, matrix = make((3, 80, 37), kind, "float32")
    clean = quantised_matmul(x, matrix.values, matrix.scales, interpret=True)
    scales = matrix.scales.at[..., 36].set(jnp.nan)
    got = quantised_matmul(x.at[2].set(jnp.nan), matrix.values, scales, interpret=True)
    assert np.array_equal(got[:2, :36], clean[:2, :36])
    assert np.all(np.isnan(got[2]))
    assert np.all(np.isnan(got[:, 36]))


@needs_triton
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_wherever_it_stands(kind):
    x, matrix = make((16, 1056, 20), kind, "float32")
    run = {"interpret": True}
    together = quantised_matmul(x, matrix.values, matrix.scales, **run)
    turned = quantised_matmul(x[::-1], matrix.values, matrix.scales, **run)
    assert np.array_equal(together, turned[::-1])


def test_a_matrix_whose_offsets_would_overflow_is_refused():
    struct = jax.ShapeDtypeStruct
    values, scales = struct((2**16, 2**15 + 1), jnp.int8), struct((2**15 + 1,), jnp.float32)
    with pytest.raises(ValueError, match=r"between 2\^31 and 2\^32, .* divide the outputs"):
        jax.eval_shape(quantised_matmul, struct((1, 2**16), jnp.float32), values, scales)


X, BYTES = jnp.zeros((2, 32)), jnp.zeros((32, 8), jnp.int8)
NIBBLES, ONES = jnp.zeros((16, 8), jnp.uint8), jnp.ones(8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], BYTES, ONES), r"x is \(32,\); it must have 2 dimensions"),
        ((X[:0], BYTES, ONES), "none empty"),
        ((X.astype(jnp.int32), BYTES, ONES), "x is int32; cast it to bfloat16 or"),
        ((X[:, :31], BYTES, ONES), r"x is \(2, 31\); beside .* it must be \(2, 32\)"),
        ((X, NIBBLES, ONES[None]), "1 groups do not divide each half of 32 inputs"),
        ((X, NIBBLES, jnp.ones((6, 8))), "6 groups .* give scales of as many groups"),
        ((X, BYTES[:16], jnp.ones((2, 8))), "values is int8; cast it to uint8"),
        ((X, BYTES.astype(jnp.int16), ONES), "values is int16; cast it to int8 or"),
        ((X, BYTES, ONES[:7]), r"scales is \(7,\); beside .* it must be \(8,\)"),
        ((X, BYTES, ONES.astype(jnp.bfloat16)), "scales is bfloat16; cast it to float32"),
        ((X, BYTES, jnp.ones((1, 1, 8))), "scales is .* must have 1 dimensions"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    for function in (quantised_matmul, quantised_matmul_reference):
        with pytest.raises(ValueError, match=message):
            function(*arguments)
