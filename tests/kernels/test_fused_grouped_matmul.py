"""Rows times their group's matrix in the interpreter, and its statement in jnp, against fp64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.fused.grouped_matmul import grouped_matmul, grouped_matmul_reference
from tests.kernels.triton import allow_deprecated, needs_triton

pytestmark = allow_deprecated
TOLERANCE = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.5e-2}
"""Relative to the size of the sums, sqrt(sum of squared terms)."""
CASES = {
    "one row": ((1, 24, 16), (0, 1, 0)),
    "one group": ((5, 32, 40), (5,)),
    "odd sizes, rows behind": ((90, 40, 37), (3, 70, 0, 9)),
    "all rows in the last group": ((80, 24, 20), (0, 0, 0, 80)),
    "no row in any group": ((70, 24, 20), (0, 0)),
    "whole tiles": ((192, 16, 16), (64, 128)),
    "a row for each group": ((7, 24, 20), (1,) * 7),
    "many groups, several blocks": ((40, 100, 150), (0, 9, 0, 0, 1, 30) + (0,) * 30),
}
"""Rows, inputs and outputs, and the rows of each group."""


def make(name: str, dtype: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Arguments in which what may not be read is nan: rows and matrices of no group."""
    (T, inputs, outputs), sizes = CASES[name]
    rng = np.random.default_rng([T, inputs, outputs])
    x = rng.normal(size=(T, inputs))
    x[sum(sizes) :] = np.nan
    weights = rng.normal(size=(len(sizes), inputs, outputs))
    weights[np.asarray(sizes) == 0] = np.nan
    return jnp.asarray(x, dtype), jnp.asarray(weights, dtype), jnp.asarray(sizes, jnp.int32)


def error_of(got: jax.Array, x: jax.Array, weights: jax.Array, sizes: jax.Array) -> float:
    """The largest error, relative to the size of its sum; infinity where zeros are missing."""
    x64, weights64 = (np.asarray(array).astype(np.float64) for array in (x, weights))
    result, worst, start = np.asarray(got).astype(np.float64), 0.0, 0
    for group, size in enumerate(np.asarray(sizes)):
        rows = slice(start, start + size)
        start += size
        want = x64[rows] @ weights64[group]
        size_of_sum = np.sqrt(np.square(x64[rows]) @ np.square(weights64[group]))
        worst = max(worst, float(np.max(np.abs(result[rows] - want) / size_of_sum, initial=0.0)))
    return np.inf if np.any(result[start:] != 0) else worst


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_matches_fp64(name, dtype):
    x, weights, sizes = make(name, dtype)
    got = grouped_matmul(x, weights, sizes, interpret=True)
    assert got.dtype == x.dtype
    assert got.shape == (x.shape[0], weights.shape[2])
    assert error_of(got, x, weights, sizes) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", CASES)
def test_the_reference_matches_fp64(name):
    """`jax.lax.ragged_dot` reads everything, so nothing is nan."""
    x, weights, sizes = make(name, "float32")
    x, weights = jnp.nan_to_num(x, nan=1.0), jnp.nan_to_num(weights, nan=1.0)
    got = grouped_matmul_reference(x, weights, sizes)
    assert error_of(got, x, weights, sizes) < TOLERANCE["float32"]


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_row_has_the_same_bits_wherever_it_stands(dtype):
    """Alone, and among others of its group, behind others' and ahead of them."""
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(3, 100, 20)), dtype)
    rows = jnp.asarray(rng.normal(size=(70, 100)), dtype)

    def run(x: jax.Array, *sizes: int) -> np.ndarray:
        return np.asarray(grouped_matmul(x, weights, jnp.asarray(sizes, jnp.int32), interpret=True))

    alone = run(rows[:1], 0, 1, 0)[0]
    assert np.array_equal(alone, run(rows, 0, 70, 0)[0])
    assert np.array_equal(alone, run(rows[::-1], 2, 68, 0)[69])
    assert np.array_equal(alone, run(jnp.roll(rows, 3, axis=0), 3, 5, 62)[3])


X, WEIGHTS, SIZES = jnp.zeros((4, 16)), jnp.zeros((2, 16, 8)), jnp.array([1, 2], jnp.int32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], WEIGHTS, SIZES), r"x is \(16,\); it must have 2 dimensions"),
        ((X[:0], WEIGHTS, SIZES), "none empty"),
        ((X.astype(jnp.int32), WEIGHTS, SIZES), "x is int32; cast it to bfloat16 or"),
        ((X, WEIGHTS[0], SIZES), "weights is .* must have 3 dimensions"),
        ((X, WEIGHTS.astype(jnp.bfloat16), SIZES), "weights is bfloat16; cast it to float32"),
        ((X[:, :15], WEIGHTS, SIZES), r"weights is .*; beside x .* it must be \(2, 15, 8\)"),
        ((X, WEIGHTS, SIZES.astype(jnp.float32)), "group_sizes is float32; cast it to int32"),
        ((X, WEIGHTS, SIZES[:1]), r"group_sizes is \(1,\); beside weights .* it must be \(2,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    for function in (grouped_matmul, grouped_matmul_reference):
        with pytest.raises(ValueError, match=message):
            function(*arguments)
