"""Paged decode attention with split KV, in Pallas-Triton: one query token a row over paged keys.

Two kernels, as in Flash-Decoding (Dao et al. 2023). The first cuts a row's keys into *splits*, each
one program: an online softmax over blocks of keys that leaves a normalised partial result and its
log-sum-exp, both fp32. The second merges a row's partials by log-sum-exp, in fp32 and in the order
of the keys. Splits and blocks lie at fixed absolute key positions, so that a row's operations
follow from its own length alone: not from its neighbours, nor from their number.

Keys beyond a row's context or before its window are never loaded, nor are their table entries read.
jax gives pools over 2^32 bytes 64-bit offsets; with elements of 2 bytes or more none overflows.

Dimension key: R rows, N query heads, K kv heads, G = N / K, H head, P pages, B pages of a row,
C keys of a block, S splits. Sizes of tiles are powers of two; what is beyond G or H is masked.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.checks import check_counts, check_paged, check_triton

SPLIT_KEYS = 512
"""Keys of one split, unless `num_splits` is given."""
MAX_HEAD_TILE = 32
"""Query heads that share one read of the keys; a larger group reads them once a tile."""
BLOCK_BYTES = 16384
"""Bytes of keys, and as many of values, that one iteration loads."""
MAX_BLOCK_KEYS = 64
STATIC = ("scale", "window", "soft_cap", "num_splits", "return_lse", "interpret")
MASKED = -1e30
"""A finite score below every real one, so that differences of it are never nan."""
EXACT = lax.Precision.HIGHEST
"""No tf32 for fp32 operands; other dtypes multiply exactly and add up in fp32 anyway."""
_iota = partial(lax.iota, jnp.int32)


@partial(jax.jit, static_argnames=STATIC)
def paged_decode(
    q: jax.Array,
    k_pages: jax.Array,
    v_pages: jax.Array,
    block_tables: jax.Array,
    context_lens: jax.Array,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    num_splits: int | None = None,
    return_lse: bool = False,
    interpret: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Attention of each row's last token over its context: `[R, N, H]` in q's dtype.

    Args:
        q: `[R, N, H]` in bfloat16, float16 or float32.
        k_pages, v_pages: `[P, page, K, H]` in one of those dtypes; K divides N.
        block_tables: `[R, B]` int32; the pages of each row, in order.
        context_lens: `[R]` int32, at most B * page; keys of each row, its own token's among them.
            A row of length 0 gives zeros.
        scale: factor of the scores.
        window: a row sees its last `window` keys only.
        soft_cap: scores become `soft_cap * tanh(score / soft_cap)`.
        sinks: `[N]`; a score per query head that takes part in the softmax and has no value.
        num_splits: cut the table's keys into so many splits, of whole blocks. None cuts every
            `SPLIT_KEYS` keys: then results do not depend on the width of the table.
        return_lse: also give the log-sum-exp of all scores and the sink, `[R, N]` float32.
        interpret: run without a GPU, in jax's interpreter.

    Raises ValueError for what does not fit, NotImplementedError where jax is too old.
    """
    check_triton("paged_decode")
    check_paged(q, k_pages, v_pages, block_tables, context_lens, sinks=sinks)
    check_counts(window=window, num_splits=num_splits)
    (R, N, H), (_, page_size, K, _) = q.shape, k_pages.shape
    table_keys = block_tables.shape[1] * page_size
    head_tile = min(max(16, pl.next_power_of_2(N // K)), MAX_HEAD_TILE)
    fit = BLOCK_BYTES // (pl.next_power_of_2(H) * k_pages.dtype.itemsize)
    block, split_keys = min(max(16, fit), MAX_BLOCK_KEYS), SPLIT_KEYS
    if num_splits is not None:
        split_keys = block * pl.cdiv(pl.cdiv(table_keys, num_splits), block)
    S = pl.cdiv(table_keys, split_keys)
    plan = _Plan(scale, window, soft_cap, head_tile, block, split_keys)
    parts = _launch(
        partial(_attend_split, plan),
        (R, K * pl.cdiv(N // K, head_tile), S),
        [q, k_pages, v_pages, block_tables, context_lens],
        [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((R, S, N, H), (R, S, N))],
        plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret,
    )
    sinks = jnp.full(N, -jnp.inf) if sinks is None else sinks.astype(jnp.float32)
    out, lse = _launch(
        partial(_merge_splits, plan),
        (R, N),
        [*parts, context_lens, sinks],
        [jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((R, N), jnp.float32)],
        plgpu.CompilerParams(num_warps=1, num_stages=2),
        interpret,
    )
    return (out, lse) if return_lse else out


class _Plan(NamedTuple):
    scale: float
    window: int | None
    soft_cap: float | None
    head_tile: int
    block: int
    split_keys: int


def _launch(kernel: partial, grid, operands, results, params, interpret):
    """Run a kernel on arrays that stay where they are: it reads what it needs of them."""
    where = pl.BlockSpec(memory_space=pl.ANY)
    specs = {"in_specs": [where] * len(operands), "out_specs": [where] * len(results)}
    name = f"paged_decode{kernel.func.__name__}"
    options = {"compiler_params": params, "interpret": interpret, "name": name}
    return pl.pallas_call(kernel, results, grid=grid, **specs, **options)(*operands)


def _attend_split(plan, q_ref, k_ref, v_ref, table_ref, lens_ref, out_ref, lse_ref) -> None:
    """One row, tile of a kv head's query heads and split; one that sees no key writes nothing."""
    (_, N, H), (_, page_size, K, _) = q_ref.shape, k_ref.shape
    G, head_tile, block = N // K, plan.head_tile, plan.block
    row, tile, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    tiles = pl.cdiv(G, head_tile)
    kv_head = _div(tile, tiles)
    group = lax.rem(tile, jnp.int32(tiles)) * head_tile + _iota(head_tile)
    heads, real_heads = kv_head * G + group, group < G
    lanes = _iota(pl.next_power_of_2(H))
    dtype = jnp.promote_types(q_ref.dtype, k_ref.dtype)
    first, last = _seen(lens_ref[row], plan.window)
    start = jnp.maximum(first, split * plan.split_keys)
    stop = jnp.minimum(last, (split + 1) * plan.split_keys)

    @pl.when(start < stop)
    def _() -> None:
        q_at = (row, heads[:, None], lanes[None, :])
        q_mask = real_heads[:, None] & (lanes < H)[None, :]
        q_GH = plgpu.load(q_ref.at[q_at], mask=q_mask, other=0.0).astype(dtype)

        def visit(index, carry):
            top, total, acc_GH = carry
            keys = index * block + _iota(block)
            seen = (keys >= start) & (keys < stop)
            pages = plgpu.load(table_ref.at[row, _div(keys, page_size)], mask=seen, other=0)
            slots = lax.rem(keys, jnp.int32(page_size))
            at = (pages[:, None], slots[:, None], kv_head, lanes[None, :])
            mask = seen[:, None] & (lanes < H)[None, :]
            k_CH = plgpu.load(k_ref.at[at], mask=mask, other=0.0).astype(dtype)
            v_CH = plgpu.load(v_ref.at[at], mask=mask, other=0.0).astype(dtype)
            scores = plgpu.dot(q_GH, k_CH, trans_b=True, precision=EXACT) * plan.scale
            if plan.soft_cap is not None:
                scores = plan.soft_cap * jnp.tanh(scores / plan.soft_cap)
            scores = jnp.where(seen[None, :], scores, MASKED)
            new_top = jnp.maximum(top, jnp.max(scores, axis=1))
            shrink = jnp.exp(top - new_top)
            weights = jnp.where(seen[None, :], jnp.exp(scores - new_top[:, None]), 0.0)
            acc_GH *= shrink[:, None]
            acc_GH += plgpu.dot(weights.astype(dtype), v_CH, precision=EXACT)
            return new_top, total * shrink + jnp.sum(weights, axis=1), acc_GH

        zeros_G, zeros_GH = jnp.zeros(head_tile, jnp.float32), jnp.zeros(q_GH.shape, jnp.float32)
        begin = zeros_G + MASKED, zeros_G, zeros_GH
        blocks = _div(start, block), _div(stop + (block - 1), block)
        top, total, acc_GH = lax.fori_loop(*blocks, visit, begin)
        out_at = (row, split, heads[:, None], lanes[None, :])
        plgpu.store(out_ref.at[out_at], acc_GH / total[:, None], mask=q_mask)
        plgpu.store(lse_ref.at[row, split, heads], top + jnp.log(total), mask=real_heads)


def _merge_splits(plan, parts_ref, parts_lse_ref, lens_ref, sinks_ref, out_ref, lse_ref) -> None:
    """One row, one query head: its partial results in the order of the keys, and its sink."""
    row, head, H = pl.program_id(0), pl.program_id(1), out_ref.shape[2]
    lanes, sink = _iota(pl.next_power_of_2(H)), sinks_ref[head]
    first, last = _seen(lens_ref[row], plan.window)

    def merge(split, carry):
        top, total, acc_H = carry
        lse = parts_lse_ref[row, split, head]
        part_H = plgpu.load(parts_ref.at[row, split, head, lanes], mask=lanes < H, other=0.0)
        new_top = jnp.maximum(top, lse)
        shrink, weight = jnp.exp(top - new_top), jnp.exp(lse - new_top)
        return new_top, total * shrink + weight, acc_H * shrink + part_H * weight

    top = jnp.maximum(sink, MASKED)
    begin = top, jnp.exp(sink - top), jnp.zeros((lanes.size,), jnp.float32)
    used = _div(first, plan.split_keys), _div(last + (plan.split_keys - 1), plan.split_keys)
    top, total, acc_H = lax.fori_loop(*used, merge, begin)
    out_H = acc_H / jnp.where(total == 0, 1.0, total)
    plgpu.store(out_ref.at[row, head, lanes], out_H.astype(out_ref.dtype), mask=lanes < H)
    lse_ref[row, head] = top + jnp.log(total)


def _seen(context: jax.Array, window: int | None) -> tuple[jax.Array, jax.Array]:
    """The first key that a row sees, and the end of them."""
    return jnp.maximum(context - window, 0) if window else jnp.int32(0), context


def _div(x: jax.Array, by: int) -> jax.Array:
    return lax.div(x, jnp.int32(by))


def paged_decode_reference(
    q: jax.Array,
    k_pages: jax.Array,
    v_pages: jax.Array,
    block_tables: jax.Array,
    context_lens: jax.Array,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """What `paged_decode` computes, in plain jnp: `(out [R, N, H], log-sum-exp [R, N])`.

    Computes and returns fp32, or fp64 where q is fp64. It gathers every page of the table.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    R, K = q.shape[0], k_pages.shape[2]
    keys = jnp.arange(block_tables.shape[1] * k_pages.shape[1])
    first, last = _seen(context_lens[:, None], window)
    seen_RC = (keys >= first) & (keys < last)

    def rows(pages: jax.Array) -> jax.Array:
        x_RCKH = pages[block_tables].reshape(R, -1, *pages.shape[2:])
        return jnp.where(seen_RC[:, :, None, None], x_RCKH.astype(dtype), 0)

    q_RKGH = q.reshape(R, K, -1, q.shape[2]).astype(dtype)
    scores = scale * jnp.einsum("RKGH,RCKH->RKGC", q_RKGH, rows(k_pages), precision=EXACT)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    scores = jnp.where(seen_RC[:, None, None], scores, -jnp.inf)
    if sinks is not None:
        sink = jnp.broadcast_to(sinks.astype(dtype).reshape(K, -1, 1), (*scores.shape[:3], 1))
        scores = jnp.concatenate([scores, sink], axis=-1)
    lse = jax.nn.logsumexp(scores, axis=-1)
    weights = jnp.exp(scores - jnp.where(jnp.isinf(lse), 0, lse)[..., None])[..., : keys.size]
    out = jnp.einsum("RKGC,RCKH->RKGH", weights, rows(v_pages), precision=EXACT)
    return out.reshape(q.shape), lse.reshape(q.shape[:2])
