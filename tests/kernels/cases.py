"""Ragged calls of paged attention with poisoned pages, and what they give in fp64 numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

SCALE = 0.3
NO_PAGE = 10**9


@dataclass(frozen=True)
class Case:
    """The arguments of a call, as arrays and options; what no query may read is nan, or no page."""

    arrays: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, attend: Any, **more: Any) -> Any:
        """Call a paged attention with the case's arguments."""
        return attend(*self.arrays, scale=SCALE, **self.options, **more)


def make_case(
    *,
    heads: tuple[int, int, int],
    rows: tuple[tuple[int, int], ...],
    page: int = 16,
    dtype: Any = jnp.float32,
    kv_dtype: Any = None,
    value_dim: int | None = None,
    in_keys: bool = False,
    padding: int = 0,
    sinks: bool = False,
    alibi: bool = False,
    seed: int = 0,
    **options: Any,
) -> Case:
    """Rows of `(queries, context)` over randomly placed pages, `padding` tokens behind them."""
    (N, K, H), V = heads, value_dim or heads[2]
    rng = np.random.default_rng([seed, N, K, H, page])
    width = max(1, max(-(-context // page) for _, context in rows)) + 1
    num_pages = len(rows) * width + 3
    placed = rng.permutation(num_pages)[: len(rows) * width].reshape(len(rows), width)
    tables = np.full((len(rows), width), NO_PAGE)
    read = np.zeros((num_pages, page), bool)
    for row, (queries, context) in enumerate(rows):
        used = -(-context // page)
        tables[row, :used] = placed[row, :used]
        first = _first(context - queries, options) if queries else context
        for key in range(first, context):
            read[placed[row, key // page], key % page] = True
        tables[row, : first // page] = NO_PAGE
    counts = [queries for queries, _ in rows]
    T = sum(counts) + padding
    pools, scales = {}, {}
    for name, size in (("k", H), ("v", V)):
        x = rng.normal(size=(num_pages, page, K, size))
        pools[name], scales[name] = _stored(x, read, kv_dtype or dtype)
    arrays = (
        jnp.asarray(rng.normal(size=(T, N, H)), dtype),
        pools["k"],
        None if in_keys else pools["v"],
        jnp.asarray(tables, jnp.int32),
        jnp.asarray([context for _, context in rows], jnp.int32),
        jnp.asarray(np.cumsum([0, *counts]), jnp.int32),
    )
    if scales["k"] is not None:
        options["k_scales"] = scales["k"]
        options |= {} if in_keys else {"v_scales": scales["v"]}
    if in_keys:
        options["value_dim"] = V
    if sinks:
        options["sinks"] = jnp.asarray(rng.normal(size=N) * 2, jnp.float32)
    if alibi:
        options["alibi_slopes"] = jnp.asarray(2.0 ** -np.arange(1, N + 1), jnp.float32)
    return Case(arrays, options)


def _stored(x: np.ndarray, read: np.ndarray, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """Pages with poison where nothing may be read, and scales if the dtype is a quantised one."""
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.int8, jnp.float8_e4m3fn):
        return jnp.asarray(np.where(read[:, :, None, None], x, np.nan), dtype), None
    largest = 127 if dtype == jnp.int8 else 448
    scales = np.abs(x).max(axis=-1) / largest
    values = x / scales[..., None]
    values = np.round(values) if dtype == jnp.int8 else values.astype(ml_dtypes.float8_e4m3fn)
    return (
        jnp.asarray(values, dtype),
        jnp.asarray(np.where(read[:, :, None], scales, np.nan), jnp.float32),
    )


def _first(position: int, options: dict[str, Any]) -> int:
    """The first key that a query sees."""
    first = 0
    if options.get("window"):
        first = max(first, position - options["window"] + 1)
    if options.get("chunk"):
        first = max(first, position // options["chunk"] * options["chunk"])
    return first


def oracle(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Attention and its log-sum-exp, token by token and head by head, in fp64."""
    q, k, v, tables, contexts, starts = (
        None if x is None else np.asarray(x).astype(np.float64) for x in case.arrays
    )
    tables, contexts, starts = (x.astype(int) for x in (tables, contexts, starts))
    options, (T, N, _), K = case.options, q.shape, k.shape[2]
    k = k * _scales(options.get("k_scales"))
    v = k[..., : options["value_dim"]] if v is None else v * _scales(options.get("v_scales"))
    out, lse = np.zeros((T, N, v.shape[-1])), np.full((T, N), -np.inf)
    for row, context in enumerate(contexts):
        for token in range(starts[row], starts[row + 1]):
            position = context - (starts[row + 1] - token)
            keys = np.arange(_first(position, options), position + 1)
            for head in range(N):
                at = (tables[row, keys // k.shape[1]], keys % k.shape[1], head // (N // K))
                scores = _scores(k[at] @ q[token, head] * SCALE, keys, position, head, options)
                lse[token, head] = np.logaddexp.reduce(scores)
                out[token, head] = np.exp(scores - lse[token, head])[: keys.size] @ v[at]
    return out, lse


def _scales(scales: jax.Array | None) -> Any:
    return 1.0 if scales is None else np.asarray(scales, np.float64)[..., None]


def _scores(
    scores: np.ndarray, keys: np.ndarray, position: int, head: int, options: dict[str, Any]
) -> np.ndarray:
    """Scaled products as scores, the sink behind them."""
    if options.get("soft_cap"):
        scores = options["soft_cap"] * np.tanh(scores / options["soft_cap"])
    if "alibi_slopes" in options:
        slope = np.float32(options["alibi_slopes"][head])
        if options.get("alibi_rounded"):
            bias = (slope * keys.astype(np.float32)).astype(ml_dtypes.bfloat16)
            scores = scores + bias.astype(np.float64) * SCALE
        else:
            scores = scores + float(slope) * (keys - position)
    if "sinks" in options:
        scores = np.append(scores, float(options["sinks"][head]))
    return scores
