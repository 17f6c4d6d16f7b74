"""The sum of the residual stream and the RMS norm behind it, in one pass (Pallas-Triton).

    sum    = x + residual                                  rounded to their dtype
    normed = sum / sqrt(mean(sum^2) + eps) * (offset + weight)

RMS norm: Zhang and Sennrich 2019. One program takes one token; squares add up in fp32.

Dimension key: T tokens, D model.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.checks import DTYPES, check_dtype, check_rank, check_shape, check_triton
from pallas_kernels.launch import launch
from pallas_kernels.online import iota
from pallas_kernels.rules import power_of_two

CHUNK = 16384
"""Elements that a program keeps in registers; of a longer token it reads the sum's terms twice."""
WARP_ELEMENTS, MAX_WARPS = 512, 16


@partial(jax.jit, static_argnames=("eps", "offset", "interpret"))
def add_rms_norm(
    x: jax.Array,
    residual: jax.Array,
    weight: jax.Array,
    *,
    eps: float,
    offset: float = 0.0,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The norm of `x + residual`, and that sum itself; both `[T, D]` in the dtype of `x`.

    Args:
        x: `[T, D]` in bfloat16, float16 or float32.
        residual: `[T, D]` in the dtype of `x`.
        weight: `[D]` in any of those dtypes.
        eps: is added to the mean of the squares.
        offset: is added to the weight (1 for Gemma's norms).
        interpret: run the kernel without a GPU, in jax's interpreter.

    Raises:
        ValueError: arguments that do not fit together.
        NotImplementedError: this jax is older than 0.10.
    """
    _check(x, residual, weight)
    check_triton("add_rms_norm")
    T, D = x.shape
    width = min(power_of_two(D), CHUNK)
    plan = _Plan(eps, offset, width, pl.cdiv(D, width))
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    normed, new_residual = launch(
        partial(_norm_token, plan),
        (T,),
        (x, residual, weight),
        [result, result],
        name="fused_add_rms_norm",
        num_warps=min(max(width // WARP_ELEMENTS, 1), MAX_WARPS),
        num_stages=2,
        interpret=interpret,
    )
    return normed, new_residual


def add_rms_norm_reference(
    x: jax.Array, residual: jax.Array, weight: jax.Array, *, eps: float, offset: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """What `add_rms_norm` computes, in plain jnp."""
    _check(x, residual, weight)
    new_residual = x + residual
    sum_TD = new_residual.astype(jnp.float32)
    root_T1 = jnp.sqrt(jnp.mean(jnp.square(sum_TD), axis=1, keepdims=True) + eps)
    normed = sum_TD / root_T1 * (offset + weight.astype(jnp.float32))
    return normed.astype(x.dtype), new_residual


class _Plan(NamedTuple):
    eps: float
    offset: float
    width: int
    """Elements of a chunk; a power of two."""
    chunks: int


def _norm_token(
    plan: _Plan, x_ref: Any, residual_ref: Any, weight_ref: Any, normed_ref: Any, sum_ref: Any
) -> None:
    """One token: its squares add up chunk by chunk, then every chunk is written."""
    token, D = pl.program_id(0), x_ref.shape[1]

    def lanes_of(chunk: Any) -> tuple[jax.Array, jax.Array]:
        lanes = chunk * plan.width + iota(plan.width)
        return lanes, lanes < D

    def read(chunk: Any) -> jax.Array:
        """The sum, rounded to its dtype, as fp32."""
        lanes, inside = lanes_of(chunk)
        terms = [
            plgpu.load(ref.at[token, lanes], mask=inside, other=0.0).astype(jnp.float32)
            for ref in (x_ref, residual_ref)
        ]
        return (terms[0] + terms[1]).astype(sum_ref.dtype).astype(jnp.float32)

    held = read(0) if plan.chunks == 1 else None

    def square(chunk: Any, squares: jax.Array) -> jax.Array:
        part = read(chunk) if held is None else held
        return squares + part * part

    squares = lax.fori_loop(0, plan.chunks, square, jnp.zeros(plan.width, jnp.float32))
    factor = 1.0 / jnp.sqrt(jnp.sum(squares) / D + plan.eps)

    def write(chunk: Any, carry: None) -> None:
        lanes, inside = lanes_of(chunk)
        part = read(chunk) if held is None else held
        weight = plgpu.load(weight_ref.at[lanes], mask=inside, other=0.0).astype(jnp.float32)
        normed = part * factor * (plan.offset + weight)
        plgpu.store(normed_ref.at[token, lanes], normed.astype(normed_ref.dtype), mask=inside)
        plgpu.store(sum_ref.at[token, lanes], part.astype(sum_ref.dtype), mask=inside)
        return carry

    lax.fori_loop(0, plan.chunks, write, None)


def _check(x: jax.Array, residual: jax.Array, weight: jax.Array) -> None:
    check_rank("x", x, 2)
    check_dtype("x", x, DTYPES)
    check_shape("residual", residual, x.shape, f"x {x.shape}")
    check_dtype("residual", residual, (x.dtype.name,))
    check_shape("weight", weight, x.shape[1:], f"x {x.shape}")
    check_dtype("weight", weight, DTYPES)
