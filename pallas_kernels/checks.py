"""What every paged kernel asks of its arguments; each message names the value and the remedy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def check_triton(kernel: str) -> None:
    """Raise NotImplementedError where jax lacks the Pallas-Triton that the kernels need."""
    if not hasattr(plgpu, "load"):
        raise NotImplementedError(
            f"{kernel} needs Pallas-Triton as in jax 0.10, and this is jax {jax.__version__}; "
            f"use {kernel}_reference"
        )


def check_paged(
    q: jax.Array,
    k_pages: jax.Array,
    v_pages: jax.Array,
    block_tables: jax.Array,
    context_lens: jax.Array,
    *,
    sinks: jax.Array | None,
) -> None:
    """Raise ValueError unless q `[R, N, H]`, pages `[P, page, K, H]` and the rest fit together."""
    for name, array, rank in (
        ("q", q, 3),
        ("k_pages", k_pages, 4),
        ("block_tables", block_tables, 2),
    ):
        if array.ndim != rank or 0 in array.shape:
            raise ValueError(f"{name} is {array.shape}; it must have {rank} dimensions, none empty")
    (R, N, H), K = q.shape, k_pages.shape[2]
    expected = {
        "k_pages": (k_pages, (*k_pages.shape[:3], H)),
        "v_pages": (v_pages, k_pages.shape),
        "block_tables": (block_tables, (R, block_tables.shape[1])),
        "context_lens": (context_lens, (R,)),
        "sinks": (sinks, (N,)),
    }
    for name, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} is {array.shape}; beside q {q.shape} it must be {shape}")
    if N % K:
        raise ValueError(f"{N} query heads cannot share {K} kv heads: K must divide N")
    for name, array in {"q": q, "k_pages": k_pages, "v_pages": v_pages}.items():
        if array.dtype not in DTYPES:
            raise ValueError(f"{name} is {array.dtype}; cast it to bfloat16, float16 or float32")
    for name, array in {"block_tables": block_tables, "context_lens": context_lens}.items():
        if array.dtype != jnp.int32:
            raise ValueError(f"{name} is {array.dtype}; cast it to int32")


def check_counts(**counts: int | None) -> None:
    """Raise ValueError for a count below 1; None stands for no limit."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name}={count} must be at least 1, or None")
