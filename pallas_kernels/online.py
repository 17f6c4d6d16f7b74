"""The online softmax over blocks of paged keys that both kernels run (Pallas-Triton).

Scores are kept in units of log2, so that the weights are powers of two (one instruction on a GPU).

Dimension key: M queries of a tile, C keys of a block, H head, V value head.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.rules import LaneRun, Rules, lane_runs

MASKED = -1e30
"""A finite score below every real one, so that differences of it are never nan."""
EXACT = lax.Precision.HIGHEST
"""No tf32 for fp32 operands; other dtypes multiply exactly and add up in fp32 anyway."""
TINY = 1e-37
"""Next to the smallest normal float32."""
LOG2_E = math.log2(math.e)
iota = partial(lax.iota, jnp.int32)


class Pool(NamedTuple):
    """The pages and what leads to them; arrays outside a kernel, references inside."""

    k: Any
    """`[P, page, K, H]`; one-byte integers are int8, or uint8 for the bits of float8_e4m3fn."""
    v: Any | None
    """`[P, page, K, V]`; None where a value is the beginning of its key."""
    k_scales: Any | None
    """`[P, page, K]`"""
    v_scales: Any | None
    tables: Any
    """`[R, B]`"""


class Queries(NamedTuple):
    """A tile of queries that share a row and a kv head."""

    parts: tuple[jax.Array, ...]
    """The runs of lanes, `[M, width]` each."""
    row: jax.Array
    kv_head: jax.Array
    positions: jax.Array
    """`[M]`, or a scalar that all of them share; then every key from `first` on is seen."""
    first: jax.Array
    stop: jax.Array
    """No query sees a key before `first` or from `stop` on."""
    slopes: jax.Array | None
    """`[M]`: ALiBi."""


class Softmax(NamedTuple):
    """The state of an online softmax: what was seen so far."""

    top: jax.Array
    """`[M]`: the largest score, in log2."""
    total: jax.Array
    """`[M]`: the sum of the weights over 2^top."""
    parts: tuple[jax.Array, ...]
    """The weighted sum of the values in runs of lanes, `[M, width]` each."""


def div(x: jax.Array, by: int) -> jax.Array:
    """x // by of numbers that are not negative."""
    return lax.div(x, jnp.int32(by))


def rem(x: jax.Array, by: int) -> jax.Array:
    """x % by of numbers that are not negative."""
    return lax.rem(x, jnp.int32(by))


def lanes_of(run: LaneRun) -> tuple[jax.Array, jax.Array]:
    """A run's lanes as a row `[1, width]`, and which of them the head has."""
    lanes = run.start + iota(run.width)[None, :]
    return lanes, lanes < run.start + run.real


def compute_dtype(q: Any, pages: Any) -> Any:
    """The dtype of products, which add up in fp32; quantised values are exact in all of them."""
    if jnp.issubdtype(pages.dtype, jnp.integer):
        return jnp.dtype(q.dtype)
    return jnp.promote_types(q.dtype, pages.dtype)


def empty(num_queries: int, value_dim: int) -> Softmax:
    """Nothing seen yet."""
    zeros = jnp.zeros(num_queries, jnp.float32)
    parts = [jnp.zeros((num_queries, run.width), jnp.float32) for run in lane_runs(value_dim)]
    return Softmax(zeros + MASKED, zeros, tuple(parts))


def walk(queries: Queries, pool: Pool, rules: Rules, block: int, start: Softmax) -> Softmax:
    """The softmax over all keys that the queries see, block by block from the first.

    Blocks lie at fixed places of a sequence, so a query's sums have one order.
    """
    visit = partial(_visit, queries=queries, pool=pool, rules=rules, block=block)
    blocks = div(queries.first, block), div(queries.stop + (block - 1), block)
    return Softmax(*lax.fori_loop(*blocks, visit, start))


def _visit(
    index: jax.Array, seen: Softmax, *, queries: Queries, pool: Pool, rules: Rules, block: int
) -> Softmax:
    keys_C = index * block + iota(block)
    inside_C = (keys_C >= queries.first) & (keys_C < queries.stop)
    page = pool.k.shape[1]
    pages_C = plgpu.load(pool.tables.at[queries.row, div(keys_C, page)], mask=inside_C, other=0)
    slots_C = rem(keys_C, page)
    dtype = queries.parts[0].dtype

    def read(pages: Any, run: LaneRun) -> jax.Array:
        lanes, real = lanes_of(run)
        at = (pages_C[:, None], slots_C[:, None], queries.kv_head, lanes)
        # What no query sees is not loaded: an unused slot may hold anything, nan included.
        mask = inside_C[:, None] if run.real == run.width else inside_C[:, None] & real
        return numbers(plgpu.load(pages.at[at], mask=mask, other=0), dtype)

    def scales(array: Any) -> jax.Array:
        return plgpu.load(array.at[pages_C, slots_C, queries.kv_head], mask=inside_C, other=0.0)

    key_runs = lane_runs(pool.k.shape[3])
    keys = [read(pool.k, run) for run in key_runs]
    products = [_dot(q, k, trans_b=True) for q, k in zip(queries.parts, keys, strict=True)]
    scores = products[0] if len(products) == 1 else products[0] + products[1]
    if pool.k_scales is not None:
        scores *= scales(pool.k_scales)[None, :]
    scores = _in_log2(scores, keys_C, queries, rules)
    visible = jnp.broadcast_to(_visible(keys_C, inside_C, queries, rules), scores.shape)
    scores = jnp.where(visible, scores, MASKED)
    top = jnp.maximum(seen.top, jnp.max(scores, axis=1))
    shrink = jnp.exp2(seen.top - top)
    weights = jnp.where(visible, jnp.exp2(scores - top[:, None]), 0.0)
    total = seen.total * shrink + jnp.sum(weights, axis=1)
    if pool.v is None:
        by_run = dict(zip(key_runs, keys, strict=True))
        values = [by_run.get(run) for run in lane_runs(rules.value_dim)]
        source, v_scales = pool.k, pool.k_scales
    else:
        values = [None for _ in lane_runs(rules.value_dim)]
        source, v_scales = pool.v, pool.v_scales
    factor = None
    if v_scales is not None:
        scales_C = scales(v_scales)
        if dtype == jnp.float16:
            # Weights times small scales are no float16: the block's largest one comes afterwards.
            factor = jnp.maximum(jnp.max(scales_C), TINY)
            scales_C /= factor
        weights *= scales_C[None, :]
    weights = weights.astype(dtype)
    parts = []
    for run, part, value in zip(lane_runs(rules.value_dim), seen.parts, values, strict=True):
        value = read(source, run) if value is None else value
        added = _dot(weights, value)
        parts.append(part * shrink[:, None] + (added if factor is None else added * factor))
    return Softmax(top, total, tuple(parts))


def _in_log2(scores: jax.Array, keys_C: jax.Array, queries: Queries, rules: Rules) -> jax.Array:
    """Products of queries and keys as scores: scaled, capped, with ALiBi; in log2."""
    if rules.soft_cap is None and queries.slopes is None:
        return scores * (rules.scale * LOG2_E)
    scores = scores * rules.scale
    if rules.soft_cap is not None:
        scores = rules.soft_cap * jnp.tanh(scores / rules.soft_cap)
    if queries.slopes is not None:
        slopes = queries.slopes[:, None]
        if rules.alibi_rounded:
            bias = slopes * keys_C[None, :].astype(jnp.float32)
            scores += bias.astype(jnp.bfloat16).astype(jnp.float32) * rules.scale
        else:
            position = queries.positions
            position = position[:, None] if position.ndim else position
            scores += slopes * (keys_C[None, :] - position).astype(jnp.float32)
    return scores * LOG2_E


def _visible(keys_C: jax.Array, inside_C: jax.Array, queries: Queries, rules: Rules) -> jax.Array:
    """Which keys a query sees, `[M, C]` or `[1, C]`."""
    if not queries.positions.ndim:
        return inside_C[None, :]
    position = queries.positions[:, None]
    visible = inside_C[None, :] & (keys_C[None, :] <= position)
    if rules.window is not None:
        visible &= keys_C[None, :] > position - rules.window
    if rules.chunk is not None:
        visible &= keys_C[None, :] >= div(position, rules.chunk) * rules.chunk
    return visible


def float8_bits(pages: jax.Array) -> jax.Array:
    """float8 as its bits, which `numbers` reads: no GPU that is older than the format needs to know
    it. Other dtypes stay."""
    if pages.dtype != jnp.float8_e4m3fn:
        return pages
    return lax.bitcast_convert_type(pages, jnp.uint8)


def numbers(stored: jax.Array, dtype: Any) -> jax.Array:
    """Loaded elements as numbers of `dtype`.

    The bits of an e4m3 number, moved by 7 places, are a float16 that is 2^8 times too small,
    subnormal numbers included: no GPU that is older than the format needs to know it.
    """
    if stored.dtype != jnp.uint8:
        return stored.astype(dtype)
    bits = stored.astype(jnp.uint16)
    bits = ((bits & jnp.uint16(0x80)) << jnp.uint16(8)) | (
        (bits & jnp.uint16(0x7F)) << jnp.uint16(7)
    )
    half = lax.bitcast_convert_type(bits, jnp.float16)
    return (half.astype(jnp.float32) * 256.0).astype(dtype)


def _dot(a: jax.Array, b: jax.Array, *, trans_b: bool = False) -> jax.Array:
    """A product of tiles in fp32."""
    return plgpu.dot(a, b, trans_b=trans_b, precision=EXACT)
