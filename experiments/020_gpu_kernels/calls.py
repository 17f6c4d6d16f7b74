"""The calls of paged attention that are checked and timed, and what they must at least move."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from config import ROWS, Check, Decode, Plan, Prefill, Shape

from pallas_kernels import Tuning, paged_attention, paged_attention_reference

SCALE_BYTES = 4


def pages_of(key: Any, shape: tuple[int, ...], dtype: str) -> tuple[jax.Array, jax.Array | None]:
    """Random pages of values of order 1, and scales if the dtype is a quantised one."""
    if dtype not in ("int8", "float8_e4m3fn"):
        return jax.random.normal(key, shape, dtype), None
    x = jax.random.normal(key, shape, jnp.bfloat16)
    if dtype == "int8":
        return jnp.round(jnp.clip(x * 32, -127, 127)).astype(dtype), jnp.full(shape[:3], 1 / 32)
    return (x * 64).astype(dtype), jnp.full(shape[:3], 1 / 64)


def arrays_of(
    shape: Shape, rows: tuple[tuple[int, int], ...], page: int, dtype: str, kv_dtype: str
) -> dict[str, Any]:
    """The arguments of a call: rows of `(queries, context)` over randomly placed pages."""
    keys = jax.random.split(jax.random.key(0), 3)
    width = max(1, max(-(-context // page) for _, context in rows))
    num_pages = sum(-(-context // page) for _, context in rows) + 1
    tables, free = (
        np.zeros((len(rows), width), np.int32),
        list(np.random.default_rng(0).permutation(np.arange(1, num_pages))),
    )
    for row, (_, context) in enumerate(rows):
        for index in range(-(-context // page)):
            tables[row, index] = free.pop()
    starts = np.cumsum([0, *(queries for queries, _ in rows)]).astype(np.int32)
    pool = (num_pages, page, shape.kv_heads, shape.head_dim)
    k_pages, k_scales = pages_of(keys[0], pool, kv_dtype)
    given = {
        "q": jax.random.normal(keys[2], (int(starts[-1]), shape.heads, shape.head_dim), dtype),
        "k_pages": k_pages,
        "v_pages": None,
        "block_tables": jnp.asarray(tables),
        "context_lens": jnp.asarray([context for _, context in rows], jnp.int32),
        "query_starts": jnp.asarray(starts),
    }
    if k_scales is not None:
        given["k_scales"] = k_scales
    if shape.value_dim is None:
        given["v_pages"], v_scales = pages_of(keys[1], pool, kv_dtype)
        given |= {} if v_scales is None else {"v_scales": v_scales}
    return given


def options_of(shape: Shape) -> dict[str, Any]:
    """What is static in a call."""
    return {"scale": shape.head_dim**-0.5, "value_dim": shape.value_dim}


def worst_error(check: Check, decodes: bool, plan: Plan) -> float:
    """The largest difference between the kernels and the reference in fp32."""
    rows = ROWS if not plan.interpret else ((1, 20), (9, 30), (0, 0))
    if decodes:
        rows = (*((min(1, queries), context) for queries, context in rows), (0, 0))
    given = arrays_of(check.shape, rows, check.page, check.dtype, check.kv_dtype)
    if decodes:
        # As many rows as tokens: every token by itself.
        padding = len(rows) - given["q"].shape[0]
        given["q"] = jnp.pad(given["q"], ((0, padding), (0, 0), (0, 0)))
    for name in check.extras:
        values = jnp.linspace(-1.0, 2.0, check.shape.heads)
        given[name] = values if name == "sinks" else jnp.abs(values) / 50
    options = options_of(check.shape) | check.options
    got = paged_attention(
        **given, **options, implementation=check.implementation, interpret=plan.interpret
    ).astype(jnp.float32)
    exact = {
        name: x.astype(jnp.float32) if x is not None and x.dtype == check.dtype else x
        for name, x in given.items()
    }
    want = paged_attention_reference(**exact, **options)
    return float(jnp.max(jnp.abs(got - want)))


def timed_call(
    work: Decode | Prefill, tuning: dict[str, int], plan: Plan
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """`step(q, given)`, which gives something of q's shape, and what is given; q among it."""
    queries = work.queries if isinstance(work, Prefill) else 1
    kv_dtype = work.kv_dtype if isinstance(work, Decode) else "bfloat16"
    rows = ((queries, work.context),) * work.batch
    given = arrays_of(work.shape, rows, work.page, "bfloat16", kv_dtype)
    options = options_of(work.shape)
    missing = work.shape.head_dim - work.shape.value_size

    def step(q: jax.Array, given: dict[str, Any]) -> jax.Array:
        out = paged_attention(
            q,
            **given,
            **options,
            implementation=work.implementation,
            interpret=plan.interpret,
            tuning=Tuning(**tuning),
        )
        return jnp.pad(out, ((0, 0), (0, 0), (0, missing)))

    return step, given


def kv_bytes(work: Decode | Prefill) -> int:
    """Bytes of the keys and values that a call reads once."""
    shape, kv_dtype = work.shape, work.kv_dtype if isinstance(work, Decode) else "bfloat16"
    size = jnp.dtype(kv_dtype).itemsize
    scale = SCALE_BYTES if size == 1 else 0
    apart = 1 if shape.value_dim is not None else 2
    return work.batch * work.context * shape.kv_heads * apart * (shape.head_dim * size + scale)


def cost(work: Decode | Prefill) -> tuple[float, float]:
    """Bytes that must be moved, and floating-point operations."""
    shape = work.shape
    queries = work.queries if isinstance(work, Prefill) else 1
    per_token = shape.heads * (shape.head_dim + shape.value_size)
    moved = kv_bytes(work) + work.batch * queries * per_token * 2
    seen = queries * work.context - queries * (queries - 1) / 2
    return float(moved), 2.0 * work.batch * per_token * seen
