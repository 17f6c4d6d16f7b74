"""Attention of runs of tokens over paged keys, in Pallas-Triton: what prefill chunks need.

A tile holds up to Q consecutive tokens of one row, each with the query heads that share a kv head:
M = Q x G queries that read their keys together and mask them by their own positions. Tiles with
more than M query heads a kv head hold one token and a part of its heads.

Dimension key: T tokens of the step, X tiles, M queries of a tile, N query heads, K kv heads,
G = N / K, H head, V value head.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import launch
from pallas_kernels.online import (
    LOG2_E,
    Pool,
    Queries,
    Softmax,
    compute_dtype,
    div,
    empty,
    iota,
    lanes_of,
    rem,
    walk,
)
from pallas_kernels.rules import LaneRun, Rules, first_key, lane_runs
from pallas_kernels.tuning import Tuning, prefill_sizes


class Tiles(NamedTuple):
    """Runs of tokens; arrays outside a kernel, then references."""

    rows: Any
    """int32 `[X]`"""
    tokens: Any
    """int32 `[X]`: where its first query lies among all, and its result."""
    positions: Any
    """int32 `[X]`: of the first token in its sequence."""
    counts: Any
    """int32 `[X]`: its tokens; 0 where there is none, then nothing is written."""


def cut_tiles(
    query_starts: jax.Array, context_lens: jax.Array, num_tokens: int, size: int, at_least: int
) -> Tiles:
    """The rows' tokens in tiles of `size`; rows of fewer than `at_least` tokens are left out."""
    R = context_lens.shape[0]
    lengths = jnp.diff(query_starts)
    tiles_R = jnp.where(lengths >= at_least, -(-lengths // size), 0)
    ends_R = jnp.cumsum(tiles_R)
    X = min(num_tokens // size + R, num_tokens)
    index = jnp.arange(X, dtype=jnp.int32)
    rows = jnp.searchsorted(ends_R, index, side="right").astype(jnp.int32)
    used = rows < R
    rows = jnp.minimum(rows, R - 1)
    done = (index - (ends_R - tiles_R)[rows]) * size
    return Tiles(
        rows=rows,
        tokens=query_starts[rows] + done,
        positions=context_lens[rows] - lengths[rows] + done,
        counts=jnp.where(used, jnp.clip(lengths[rows] - done, 0, size), 0),
    )


def prefill(
    q: jax.Array,
    pool: Pool,
    query_starts: jax.Array,
    context_lens: jax.Array,
    sinks: jax.Array | None,
    slopes: jax.Array | None,
    out: tuple[jax.Array, jax.Array],
    rules: Rules,
    tuning: Tuning,
    *,
    at_least: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """`out` (`[T, N, V]` and log-sum-exp `[T, N]`) with the results of all rows of `at_least`
    tokens written in."""
    (T, N, _), K = q.shape, pool.k.shape[2]
    sizes = prefill_sizes(q, pool, rules, tuning)
    rows = sizes.rows
    heads = min(N // K, rows)
    plan = _Plan(rules, rows, heads, rows // heads, pl.cdiv(N // K, heads), sizes.block)
    tiles = cut_tiles(query_starts, context_lens, T, plan.tokens, at_least)
    return launch(
        partial(_attend_tile, plan),
        (tiles.rows.shape[0], K * plan.head_tiles),
        (out, q, pool, tiles, sinks, slopes),
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out],
        name="paged_prefill",
        num_warps=sizes.num_warps,
        num_stages=sizes.num_stages,
        interpret=interpret,
        overwrites=2,
    )


class _Plan(NamedTuple):
    rules: Rules
    rows: int
    """M; `heads * tokens` of them are used."""
    heads: int
    """Query heads of a token in one tile."""
    tokens: int
    head_tiles: int
    """Tiles of a kv head's query heads."""
    block: int


def _attend_tile(
    plan: _Plan,
    _: Any,
    q_ref: Any,
    pool: Pool,
    tiles: Tiles,
    sinks_ref: Any,
    slopes_ref: Any,
    out_ref: Any,
    lse_ref: Any,
) -> None:
    """One tile and kv head, or a part of its query heads."""
    G = q_ref.shape[1] // pool.k.shape[2]
    tile, count = pl.program_id(0), tiles.counts[pl.program_id(0)]
    kv_head = div(pl.program_id(1), plan.head_tiles)
    index = iota(plan.rows)
    offsets = div(index, plan.heads)
    group = rem(pl.program_id(1), plan.head_tiles) * plan.heads + rem(index, plan.heads)
    real = (offsets < jnp.minimum(count, plan.tokens)) & (group < G)
    tokens, heads = tiles.tokens[tile] + offsets, kv_head * G + group

    @pl.when(count > 0)
    def _() -> None:
        begin, dtype = tiles.positions[tile], compute_dtype(q_ref, pool.k)

        def read(run: LaneRun) -> jax.Array:
            lanes, inside = lanes_of(run)
            at, mask = (tokens[:, None], heads[:, None], lanes), real[:, None] & inside
            return plgpu.load(q_ref.at[at], mask=mask, other=0.0).astype(dtype)

        def of_heads(ref: Any) -> jax.Array | None:
            return None if ref is None else plgpu.load(ref.at[heads], mask=real, other=0.0)

        queries = Queries(
            parts=tuple(read(run) for run in lane_runs(q_ref.shape[2])),
            row=tiles.rows[tile],
            kv_head=kv_head,
            positions=begin + offsets,
            first=first_key(begin, plan.rules),
            stop=begin + count,
            slopes=of_heads(slopes_ref),
        )
        start = empty(plan.rows, plan.rules.value_dim)
        sinks = of_heads(sinks_ref)
        if sinks is not None:
            start = Softmax(sinks * LOG2_E, start.total + 1.0, start.parts)
        top, total, parts = walk(queries, pool, plan.rules, plan.block, start)
        total = jnp.where(total == 0, 1.0, total)
        for run, part in zip(lane_runs(plan.rules.value_dim), parts, strict=True):
            lanes, inside = lanes_of(run)
            at = out_ref.at[tokens[:, None], heads[:, None], lanes]
            values = (part / total[:, None]).astype(out_ref.dtype)
            plgpu.store(at, values, mask=real[:, None] & inside)
        lse = (top + jnp.log2(total)) / LOG2_E
        plgpu.store(lse_ref.at[tokens, heads], lse, mask=real)
