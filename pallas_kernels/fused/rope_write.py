"""Queries and keys turned, keys and values put into their pages, in one launch (Pallas-Triton).

Rotary position embedding (Su et al. 2021): element i of the first half of a head's first
`rotary` elements turns together with element i of the second half (GPT-NeoX's pairs); the elements
behind them stay as they are. One program takes some heads of one token.

Quantised pages hold int8 or float8_e4m3fn, with one scale per token and kv head
(`eight_bits.py`).

Dimension key: T tokens, N query heads, K kv heads, H head, V value head, P pages, M heads of a
program.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.checks import check_triton
from pallas_kernels.fused.eight_bits import (
    LARGEST,
    e4m3_bits,
    magnitudes,
    nearest,
    ratios,
    scales_of,
)
from pallas_kernels.fused.written import Destination, Tokens, check_offsets, check_written
from pallas_kernels.launch import launch
from pallas_kernels.online import float8_bits, iota
from pallas_kernels.rules import power_of_two

MAX_HEADS = 8
"""Heads that one program takes."""


class Written(NamedTuple):
    """What `rope_write` returns."""

    q: jax.Array
    k_pages: jax.Array
    v_pages: jax.Array
    k_scales: jax.Array | None
    v_scales: jax.Array | None


@partial(jax.jit, static_argnames="interpret")
def rope_write(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    k_pages: jax.Array,
    v_pages: jax.Array,
    write_pages: jax.Array,
    write_slots: jax.Array,
    *,
    k_scales: jax.Array | None = None,
    v_scales: jax.Array | None = None,
    interpret: bool = False,
) -> Written:
    """The queries turned, and the pages with the step's turned keys and its values in them.

    Pages and scales are overwritten where their arrays are donated; no pool is copied then.

    Args:
        q: `[T, N, H]` in bfloat16, float16 or float32.
        k: `[T, K, H]` in the dtype of `q`.
        v: `[T, K, V]` likewise.
        cos, sin: float32 `[T, rotary / 2]` of each token's angles; rotary is at most H.
        k_pages: `[P, page, K, H]` in one of those dtypes, or int8 or float8_e4m3fn with scales
            (uint8 is taken for the bits of the latter).
        v_pages: `[P, page, K, V]` in the dtype of `k_pages`.
        write_pages: int32 `[T]`; the page that a token's key and value go to. Of a token whose
            page or slot is none of the pool's, as of padding with page -1, nothing is written.
        write_slots: int32 `[T]`; the place within the page. No two tokens have the same.
        k_scales, v_scales: float32 `[P, page, K]`, of quantised pages.
        interpret: run the kernel without a GPU, in jax's interpreter.

    Raises:
        ValueError: arguments that do not fit together.
        NotImplementedError: this jax is older than 0.10, or the pool has between 2^31 and 2^32
            elements of one byte.
    """
    tokens = Tokens(q, k, v, cos, sin, write_pages, write_slots)
    pool = Destination(float8_bits(k_pages), float8_bits(v_pages), k_scales, v_scales)
    check_written(tokens, pool)
    check_triton("rope_write")
    check_offsets(pool)
    (T, N, _), K, held = q.shape, k.shape[1], jax.tree.leaves(pool)
    heads = min(power_of_two(max(N, K)), MAX_HEADS)
    *held, turned = launch(
        partial(_turn_and_write, heads),
        (T, pl.cdiv(N, heads) + pl.cdiv(K, heads)),
        (pool, tokens),
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*held, q)],
        name="fused_rope_write",
        num_warps=4,
        num_stages=2,
        interpret=interpret,
        overwrites=len(held),
    )
    pool = jax.tree.unflatten(jax.tree.structure(pool), held)
    k_pages, v_pages = (lax.bitcast_convert_type(x, k_pages.dtype) for x in (pool.k, pool.v))
    return Written(turned, k_pages, v_pages, pool.k_scales, pool.v_scales)


def rope_write_reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    k_pages: jax.Array,
    v_pages: jax.Array,
    write_pages: jax.Array,
    write_slots: jax.Array,
    *,
    k_scales: jax.Array | None = None,
    v_scales: jax.Array | None = None,
) -> Written:
    """What `rope_write` computes, in plain jnp."""
    tokens = Tokens(q, k, v, cos, sin, write_pages, write_slots)
    pool = Destination(k_pages, v_pages, k_scales, v_scales)
    check_written(tokens, pool)
    placed = _is_place(write_pages, write_slots, k_pages.shape)
    places = jnp.where(placed, write_pages, k_pages.shape[0]), write_slots

    def put(x: jax.Array, pages: jax.Array, scales: jax.Array | None) -> tuple:
        if scales is None:
            return pages.at[places].set(x.astype(pages.dtype), mode="drop"), None
        largest = LARGEST[pages.dtype.name]
        new_scales = scales_of(jnp.max(magnitudes(x), axis=-1), largest)
        values = ratios(x, new_scales, largest)
        if pages.dtype == jnp.int8:
            values = jnp.round(values).astype(jnp.int8)
        else:
            values = lax.bitcast_convert_type(values.astype(jnp.float8_e4m3fn), pages.dtype)
        scales = scales.at[places].set(new_scales, mode="drop")
        return pages.at[places].set(values, mode="drop"), scales

    k_pages, k_scales = put(_turn_reference(k, cos, sin), k_pages, k_scales)
    v_pages, v_scales = put(v, v_pages, v_scales)
    return Written(_turn_reference(q, cos, sin), k_pages, v_pages, k_scales, v_scales)


def _turn_reference(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    half = cos.shape[1]
    cos, sin, x32 = cos[:, None], sin[:, None], x.astype(jnp.float32)
    first, second = x32[..., :half], x32[..., half : 2 * half]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([turned.astype(x.dtype), x[..., 2 * half :]], axis=-1)


class _Heads(NamedTuple):
    """A program's heads of one token, and their real ones."""

    token: jax.Array
    heads: jax.Array
    real: jax.Array


class _Part(NamedTuple):
    """Consecutive lanes of some heads."""

    lanes: jax.Array
    """`[1, W]`; W is a power of two."""
    mask: jax.Array
    """`[M, W]`"""
    values: jax.Array
    """`[M, W]`; zero where the mask is False."""


def _turn_and_write(M: int, _: Destination, tokens: Tokens, *written: Any) -> None:
    """M heads of one token: of its queries, or of its keys and values."""
    *held, q_out = written
    pool = Destination(*held)
    token, tile = pl.program_id(0), pl.program_id(1)
    N, K = tokens.q.shape[1], tokens.k.shape[1]
    q_tiles = pl.cdiv(N, M)

    @pl.when(tile < q_tiles)
    def _() -> None:
        index = tile * M + iota(M)
        heads = _Heads(token, index, index < N)
        for part in _turned(tokens.q, heads, tokens):
            plgpu.store(q_out.at[token, index[:, None], part.lanes], part.values, mask=part.mask)

    page, slot = tokens.pages[token], tokens.slots[token]

    @pl.when((tile >= q_tiles) & _is_place(page, slot, pool.k.shape))
    def _() -> None:
        index = (tile - q_tiles) * M + iota(M)
        heads = _Heads(token, index, index < K)
        keys = _turned(tokens.k, heads, tokens)
        values = [_read(tokens.v, heads, 0, tokens.v.shape[2])]
        _put(keys, heads, pool.k, pool.k_scales, (page, slot))
        _put(values, heads, pool.v, pool.v_scales, (page, slot))


def _is_place(pages: jax.Array, slots: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Whether there is such a slot in such a page of a pool `[P, page, ...]`."""
    return (pages >= 0) & (pages < shape[0]) & (slots >= 0) & (slots < shape[1])


def _read(x_ref: Any, heads: _Heads, start: int, size: int) -> _Part:
    """Some lanes of the heads, in their dtype."""
    index = iota(power_of_two(size))[None, :]
    mask = heads.real[:, None] & (index < size)
    at = (heads.token, heads.heads[:, None], start + index)
    return _Part(start + index, mask, plgpu.load(x_ref.at[at], mask=mask, other=0.0))


def _turned(x_ref: Any, heads: _Heads, tokens: Tokens) -> list[_Part]:
    """The heads' two halves that turn, and what lies behind them; turned in fp32, then rounded."""
    half, H = tokens.cos.shape[1], x_ref.shape[2]
    lanes = iota(power_of_two(half))
    cos, sin = (
        plgpu.load(ref.at[heads.token, lanes], mask=lanes < half, other=0.0)[None, :]
        for ref in (tokens.cos, tokens.sin)
    )
    first, second = (_read(x_ref, heads, start, half) for start in (0, half))
    a, b = (part.values.astype(jnp.float32) for part in (first, second))
    parts = [
        first._replace(values=(a * cos - b * sin).astype(x_ref.dtype)),
        second._replace(values=(b * cos + a * sin).astype(x_ref.dtype)),
    ]
    if 2 * half < H:
        parts.append(_read(x_ref, heads, 2 * half, H - 2 * half))
    return parts


def _put(
    parts: list[_Part], heads: _Heads, pages: Any, scales_ref: Any, place: tuple[Any, Any]
) -> None:
    """Heads into their slot of a page, quantised where the pages have scales."""
    if scales_ref is None:
        stored = [part.values.astype(pages.dtype) for part in parts]
    else:
        scales, stored = _quantised(parts, pages.dtype)
        plgpu.store(scales_ref.at[(*place, heads.heads)], scales, mask=heads.real)
    for part, values in zip(parts, stored, strict=True):
        at = (*place, heads.heads[:, None], part.lanes)
        plgpu.store(pages.at[at], values, mask=part.mask)


def _quantised(parts: list[_Part], dtype: Any) -> tuple[jax.Array, list[jax.Array]]:
    """The heads' scales `[M]`, and their parts as int8 or as the bits of float8_e4m3fn."""
    tops = [jnp.max(magnitudes(part.values), axis=1) for part in parts]
    largest = LARGEST[dtype.name]
    scales = scales_of(reduce(jnp.maximum, tops), largest)
    values = [ratios(part.values, scales, largest) for part in parts]
    if dtype == jnp.uint8:
        return scales, [e4m3_bits(x) for x in values]
    return scales, [nearest(x).astype(jnp.int8) for x in values]
