"""What the kernels ask of their arguments; each message names the value, the limit, the remedy."""

from __future__ import annotations

import jax

from pallas_kernels.checks import has_triton

FLOATS = ("bfloat16", "float16", "float32")


def check_triton(function: str) -> None:
    """Raise NotImplementedError where this jax has no Pallas-Triton as the kernels need it."""
    if not has_triton():
        raise NotImplementedError(
            f"{function} needs Pallas as in jax 0.10, and this is jax {jax.__version__}; "
            f"use {function}_reference"
        )


def check_rank(name: str, array: jax.Array, rank: int) -> None:
    """Raise ValueError unless an array has so many dimensions, none of them empty."""
    if array.ndim != rank or 0 in array.shape:
        raise ValueError(f"{name} is {array.shape}; it must have {rank} dimensions, none empty")


def check_shape(name: str, array: jax.Array, shape: tuple[int, ...], beside: str) -> None:
    """Raise ValueError unless an array has the shape that another one asks for."""
    if array.shape != shape:
        raise ValueError(f"{name} is {array.shape}; beside {beside} it must be {shape}")


def check_dtype(name: str, array: jax.Array, dtypes: tuple[str, ...]) -> None:
    """Raise ValueError unless an array has one of the dtypes."""
    if array.dtype.name not in dtypes:
        raise ValueError(f"{name} is {array.dtype}; cast it to {' or '.join(dtypes)}")
