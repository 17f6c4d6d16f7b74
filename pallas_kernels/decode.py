"""Attention of single tokens over paged keys, with split KV, in Pallas-Triton.

Two kernels, as in Flash-Decoding (Dao et al. 2023). The first cuts a token's keys into *splits*,
each one program: an online softmax over blocks of keys that leaves a normalised partial result and
its log-sum-exp, both fp32. The second merges the partials by log-sum-exp, in fp32 and in the order
of the keys. Splits and blocks lie at fixed places of a sequence, so a token's operations follow
from its own position: not from its neighbours, nor from their number.

Dimension key: T tokens of the step, X tokens that are attended for, N query heads, K kv heads,
G = N / K, H head, V value head, S splits.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import launch
from pallas_kernels.online import (
    LOG2_E,
    MASKED,
    Pool,
    Queries,
    compute_dtype,
    div,
    empty,
    iota,
    lanes_of,
    rem,
    walk,
)
from pallas_kernels.rules import LaneRun, Rules, first_key, lane_runs
from pallas_kernels.tuning import DecodeSizes, Tuning, decode_sizes

MERGED_AT_ONCE = 8
"""Splits that one iteration of the merge reads."""


class Singles(NamedTuple):
    """Tokens that are attended for, each by itself; arrays outside a kernel, then references."""

    tokens: Any
    """int32 `[X]`: where its query lies among all, and its result."""
    rows: Any
    """int32 `[X]`"""
    positions: Any
    """int32 `[X]`: -1 where there is none; then nothing is written."""


def decode(
    q: jax.Array,
    pool: Pool,
    singles: Singles,
    sinks: jax.Array | None,
    slopes: jax.Array | None,
    out: tuple[jax.Array, jax.Array],
    rules: Rules,
    tuning: Tuning,
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """`out` (`[T, N, V]` and log-sum-exp `[T, N]`) with the results of the tokens written in."""
    N, K, X = q.shape[1], pool.k.shape[2], singles.tokens.shape[0]
    sizes = decode_sizes(q, pool, rules, tuning)
    tiles = pl.cdiv(N // K, sizes.head_tile)
    S = pl.cdiv(pool.tables.shape[1] * pool.k.shape[1], sizes.split_keys)
    plan = _Plan(rules, sizes, tiles)
    parts = launch(
        partial(_attend_split, plan),
        (X, K * tiles, S),
        (q, pool, singles, slopes),
        [
            jax.ShapeDtypeStruct((X, S, N, rules.value_dim), jnp.float32),
            jax.ShapeDtypeStruct((X, S, N), jnp.float32),
        ],
        name="paged_decode_split",
        num_warps=sizes.num_warps,
        num_stages=sizes.num_stages,
        interpret=interpret,
    )
    return launch(
        partial(_merge_splits, plan),
        (X, N),
        (out, *parts, singles, sinks),
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in out],
        name="paged_decode_merge",
        num_warps=1,
        num_stages=2,
        interpret=interpret,
        overwrites=2,
    )


class _Plan(NamedTuple):
    rules: Rules
    sizes: DecodeSizes
    tiles: int
    """Tiles of a kv head's query heads."""


def _attend_split(
    plan: _Plan,
    q_ref: Any,
    pool: Pool,
    singles: Singles,
    slopes_ref: Any,
    out_ref: Any,
    lse_ref: Any,
) -> None:
    """One token, tile of a kv head's query heads and split; without a key it writes nothing."""
    N, K = q_ref.shape[1], pool.k.shape[2]
    G = N // K
    index, tile, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    position = singles.positions[index]
    first = jnp.maximum(first_key(position, plan.rules), split * plan.sizes.split_keys)
    stop = jnp.minimum(position + 1, (split + 1) * plan.sizes.split_keys)

    @pl.when(first < stop)
    def _() -> None:
        kv_head = div(tile, plan.tiles)
        group = rem(tile, plan.tiles) * plan.sizes.head_tile + iota(plan.sizes.head_tile)
        heads, real = kv_head * G + group, group < G
        token, dtype = singles.tokens[index], compute_dtype(q_ref, pool.k)

        def read(run: LaneRun) -> jax.Array:
            lanes, inside = lanes_of(run)
            at = (token, heads[:, None], lanes)
            return plgpu.load(q_ref.at[at], mask=real[:, None] & inside, other=0.0).astype(dtype)

        slopes = None
        if slopes_ref is not None:
            slopes = plgpu.load(slopes_ref.at[heads], mask=real, other=0.0)
        queries = Queries(
            parts=tuple(read(run) for run in lane_runs(q_ref.shape[2])),
            row=singles.rows[index],
            kv_head=kv_head,
            positions=position,
            first=first,
            stop=stop,
            slopes=slopes,
        )
        start = empty(plan.sizes.head_tile, plan.rules.value_dim)
        top, total, parts = walk(queries, pool, plan.rules, plan.sizes.block, start)
        for run, part in zip(lane_runs(plan.rules.value_dim), parts, strict=True):
            lanes, inside = lanes_of(run)
            at = (index, split, heads[:, None], lanes)
            plgpu.store(out_ref.at[at], part / total[:, None], mask=real[:, None] & inside)
        plgpu.store(lse_ref.at[index, split, heads], top + jnp.log2(total), mask=real)


def _merge_splits(
    plan: _Plan,
    _: Any,
    parts_ref: Any,
    parts_lse_ref: Any,
    singles: Singles,
    sinks_ref: Any,
    out_ref: Any,
    lse_ref: Any,
) -> None:
    """One token, one query head: its partial results in the order of the keys, and its sink."""
    index, head = pl.program_id(0), pl.program_id(1)
    position = singles.positions[index]
    first = div(first_key(position, plan.rules), plan.sizes.split_keys)
    stop = div(position, plan.sizes.split_keys) + 1
    runs = lane_runs(plan.rules.value_dim)

    def merge(turn: jax.Array, carry: tuple) -> tuple:
        top, total, parts = carry
        splits = turn * MERGED_AT_ONCE + iota(MERGED_AT_ONCE)
        used = (splits >= first) & (splits < stop)
        at = (index, splits, head)
        lse = plgpu.load(parts_lse_ref.at[at], mask=used, other=MASKED)
        new_top = jnp.maximum(top, jnp.max(lse))
        shrink, weights = jnp.exp2(top - new_top), jnp.exp2(lse - new_top)
        added = []
        for run, part in zip(runs, parts, strict=True):
            lanes, inside = lanes_of(run)
            value_at = (index, splits[:, None], head, lanes)
            mask = used[:, None] & inside
            values = plgpu.load(parts_ref.at[value_at], mask=mask, other=0.0)
            added.append(part * shrink + jnp.sum(values * weights[:, None], axis=0))
        return new_top, total * shrink + jnp.sum(weights), tuple(added)

    @pl.when(position >= 0)
    def _() -> None:
        zeros = tuple(jnp.zeros((run.width,), jnp.float32) for run in runs)
        if sinks_ref is None:
            begin = jnp.float32(MASKED), jnp.float32(0), zeros
        else:
            begin = sinks_ref[head] * LOG2_E, jnp.float32(1), zeros
        turns = div(first, MERGED_AT_ONCE), div(stop + (MERGED_AT_ONCE - 1), MERGED_AT_ONCE)
        top, total, parts = lax.fori_loop(*turns, merge, begin)
        token = singles.tokens[index]
        for run, part in zip(runs, parts, strict=True):
            lanes, inside = run.start + iota(run.width), iota(run.width) < run.real
            at = out_ref.at[token, head, lanes]
            plgpu.store(at, (part / total).astype(out_ref.dtype), mask=inside)
        lse_ref[token, head] = (top + jnp.log2(total)) / LOG2_E
