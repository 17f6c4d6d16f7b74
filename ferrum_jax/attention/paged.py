"""Paged attention in plain XLA, for every backend: ragged queries over a pool of KV pages.

The queries of a step are cut into *tiles* (`layout.py`), which run in groups; a group walks its
sequences' pages in blocks of a fixed number of keys with an online softmax (Milakov and Gimelshein
2018), as far as its longest context reaches and from where its window starts. So the work follows
the actual context lengths, not the longest allowed one.

The scales of a quantised cache multiply scores and weights, not the keys and values themselves:
fewer products where N < H, and the blocks stay exact in bf16. With bf16 queries a decode's
attention over an int8 cache took 0.72 times as long as with multiplied blocks (16 sequences of
2,048 tokens, 8 kv heads of 128, jax 0.10.2, 2 CPU cores); with float32 queries, the same time.

Dimension key: T tokens, R rows (sequences), B pages a sequence, X tiles of a group, Q tokens of a
tile, C keys of a block, N query heads, K kv heads, G = N / K, H head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.attention.dense import MASKED, alibi, soft_capped
from ferrum_jax.attention.formed import attend_forming_weights
from ferrum_jax.attention.layout import FEW, PagedMeta, QueryTiles
from ferrum_jax.attention.quantize import as_stored, from_stored, quantise
from ferrum_jax.interfaces import Attend
from ferrum_jax.types import (
    TRASH_PAGE,
    AttentionConfig,
    DataType,
    LayerCache,
    even_rows,
)

MOST_HEADS_AT_ONCE = 20
"""Heads of single queries up to which one product for all of them is the faster one."""


def paged_attention(step: PagedMeta, *, by_head: bool = False) -> Attend:
    """An `Attend` bound to one step's layout, to be made inside the jitted step.

    Args:
        by_head: let no product mix heads, which may be on several devices.
    """
    return partial(_attend, step=step, by_head=by_head)


def _attend(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K V"],
    layer_cache: LayerCache | None,
    meta: Int[Array, " T"],
    spec: AttentionConfig,
    *,
    step: PagedMeta,
    by_head: bool = False,
    sinks: Float[Array, " N"] | None = None,
    tap_pattern: Callable[[Array], Array] | None = None,
    cached: bool = False,
) -> tuple[Float[Array, "T N V"], LayerCache]:
    """Write the step's keys and values, then attend; weights are formed only for `tap_pattern`."""
    del meta
    assert layer_cache is not None
    cache = layer_cache if cached else write_kv(layer_cache, k, v, step)
    if tap_pattern is not None:
        out = attend_forming_weights(
            q,
            cache,
            spec,
            tables_RB=step.block_tables,
            rows_T=step.rows,
            positions_T=step.positions,
            sinks=sinks,
            tap_pattern=tap_pattern,
        )
        return out, cache
    walk = partial(_walk, q, cache=cache, step=step, by_head=by_head, spec=spec, sinks=sinks)
    out = walk(step.tiles)
    if (lone := step.lone_tiles) is not None:

        def with_lone() -> Array:
            return jnp.where(step.lone[:, None, None], walk(lone), out)

        out = jax.lax.cond(lone.used_groups > 0, with_lone, lambda: out)
    return out.astype(q.dtype), cache


def _walk(
    q: Float[Array, "T N H"],
    tiles: QueryTiles,
    *,
    cache: LayerCache,
    step: PagedMeta,
    by_head: bool,
    spec: AttentionConfig,
    sinks: Float[Array, " N"] | None,
) -> Float[Array, "T N V"]:
    """What the tokens of the tiles attend to, a group of tiles after the other."""
    groups = spec.num_heads // spec.num_kv_heads
    sink = None if sinks is None else sinks.astype(jnp.float32).reshape(-1, groups)
    tokens_GXQ, positions_GXQ, rows_GX = (
        x.reshape(-1, tiles.group, *x.shape[1:])
        for x in (tiles.tokens, tiles.positions, tiles.rows)
    )

    def attend(index: Array | int, size: int = tiles.size) -> Float[Array, "X Q N V"]:
        pages = tiles.block_pages
        if size < tiles.size:
            pages = max(1, min(pages, FEW // cache.k_pages.shape[1]))
        q_XQN = q[tokens_GXQ[index, :, :size]]
        q_XQKGH = q_XQN.reshape(*q_XQN.shape[:2], spec.num_kv_heads, groups, spec.head_dim)
        out = _group(
            q_XQKGH,
            positions_GXQ[index, :, :size],
            rows_GX[index],
            cache=cache,
            tables=step.block_tables,
            block_pages=pages,
            by_head=by_head,
            spec=spec,
            sink=sink,
        )
        return out.reshape(*q_XQN.shape[:2], spec.num_heads, spec.value_size)

    if rows_GX.shape[0] > 1 and tiles.group == 1:
        return _in_order_of_tokens(attend, tiles, (spec.num_heads, spec.value_size))
    if rows_GX.shape[0] == 1:
        out = attend(0)
    else:
        # As many as hold tokens: a step that could take many rows mostly has room for more tiles.
        out = jnp.zeros((*tokens_GXQ.shape, spec.num_heads, spec.value_size))
        out = jax.lax.fori_loop(0, tiles.used_groups, lambda i, out: out.at[i].set(attend(i)), out)
    return out.reshape(-1, spec.num_heads, spec.value_size)[tiles.of_token]


def _in_order_of_tokens(
    attend: Callable[..., Float[Array, "1 Q N V"]], tiles: QueryTiles, shape: tuple[int, int]
) -> Float[Array, "T N V"]:
    """What groups of one tile attend to, written where their tokens lie.

    A tile that is not full writes behind its tokens too, where the next one's then stand. A buffer
    of all tiles that a step could take would have many times the size, in every layer.
    """
    count = tiles.of_token.shape[0]
    counts_X = jnp.sum(tiles.positions >= 0, axis=1)

    def write(index: Array, out_TNV: Array) -> Array:
        def of_size(size: int) -> Array:
            new = attend(index, size)[0]
            return jax.lax.dynamic_update_slice_in_dim(out_TNV, new, tiles.tokens[index, 0], axis=0)

        if tiles.size <= FEW:
            return of_size(tiles.size)
        few = counts_X[index] <= FEW
        return jax.lax.cond(few, lambda: of_size(FEW), lambda: of_size(tiles.size))

    out = jnp.zeros((count + tiles.size, *shape))
    return jax.lax.fori_loop(0, tiles.used_groups, write, out)[:count]


def write_kv(cache: LayerCache, k: Array, v: Array, step: PagedMeta) -> LayerCache:
    """The cache with each token's key and value at its place; padding goes to the trash page.

    A quantised cache takes them quantised, with their scales.
    """
    at = (step.write_pages, step.positions % cache.k_pages.shape[1])
    k_pages, k_scales = _written(cache.k_pages, cache.k_scales, k, at)
    if cache.v_pages is None:
        return LayerCache(k_pages=k_pages, v_pages=None, k_scales=k_scales)
    v_pages, v_scales = _written(cache.v_pages, cache.v_scales, v, at)
    return LayerCache(k_pages=k_pages, v_pages=v_pages, k_scales=k_scales, v_scales=v_scales)


def _written(
    pages: Array, scales: Array | None, x_TKH: Array, at: tuple[Array, Array]
) -> tuple[Array, Array | None]:
    if pages.dtype == jnp.uint16:
        bits = as_stored(x_TKH.astype(jnp.bfloat16), DataType.BFLOAT16)
        return pages.at[at].set(bits), None
    if scales is None:
        return pages.at[at].set(x_TKH.astype(pages.dtype)), None
    dtype = DataType.INT8 if pages.dtype == jnp.int8 else DataType.FLOAT8_E4M3FN
    values, new_scales = quantise(x_TKH, dtype)
    return pages.at[at].set(as_stored(values, dtype)), scales.at[at].set(new_scales)


def _group(
    q_XQKGH: Float[Array, "X Q K G H"],
    positions_XQ: Int[Array, "X Q"],
    rows_X: Int[Array, " X"],
    *,
    cache: LayerCache,
    tables: Int[Array, "R B"],
    block_pages: int,
    by_head: bool,
    spec: AttentionConfig,
    sink: Array | None,
) -> Float[Array, "X Q K G V"]:
    """Online softmax of a group of tiles over their sequences' pages, block by block."""
    block = block_pages * cache.k_pages.shape[1]
    # At least two blocks: XLA hoists the read of a lone one out of the loop, fuses it with the
    # write before it, and then needs a copy of the whole pool.
    num_blocks = max(2, -(-tables.shape[1] // block_pages))
    padding = num_blocks * block_pages - tables.shape[1]
    tables_XB = jnp.pad(tables[rows_X], ((0, 0), (0, padding)), constant_values=TRASH_PAGE)
    longest_X = jnp.max(positions_XQ, axis=1)
    at_once = not by_head and spec.num_heads <= MOST_HEADS_AT_ONCE
    one = q_XQKGH.shape[1] == 1 and at_once
    products = (_one_query if one else _by_kv_head)(q_XQKGH, spec.value_size)
    # Quantised values are exact in bf16; float16 would lose small weights times small scales.
    kind = jnp.bfloat16 if q_XQKGH.dtype == jnp.bfloat16 else jnp.float32

    def read(pages: Array, index: Array) -> Array:
        ids = jax.lax.dynamic_slice_in_dim(tables_XB, index * block_pages, block_pages, 1)
        return pages[ids].reshape(ids.shape[0], block, *pages.shape[2:])

    def visit(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, out = carry
        scores = products.scores(from_stored(read(cache.k_pages, index), kind))
        if cache.k_scales is not None:
            scores *= _by_head(read(cache.k_scales, index))
        scores = soft_capped(scores * spec.scale, spec.soft_cap)
        keys_C = index * block + jnp.arange(block, dtype=jnp.int32)
        if spec.alibi_slopes is not None:
            bias_KGXQC = alibi(spec, positions_XQ[:, :, None], keys_C)
            scores += jnp.transpose(bias_KGXQC, (2, 0, 1, 3, 4))
        distance_XQC = positions_XQ[:, :, None] - keys_C
        seen = distance_XQC >= 0
        if spec.window is not None:
            seen &= distance_XQC < spec.window
        if spec.chunk is not None:
            seen &= positions_XQ[:, :, None] // spec.chunk == keys_C // spec.chunk
        seen = seen[:, None, None]
        new_top = jnp.maximum(top, jnp.max(jnp.where(seen, scores, MASKED), axis=-1))
        weights = jnp.where(seen, jnp.exp(scores - new_top[..., None]), 0.0)
        shrink = jnp.exp(top - new_top)
        total = total * shrink + jnp.sum(weights, axis=-1)
        if cache.v_pages is None:
            v_XCKH = from_stored(read(cache.k_pages, index), kind)[..., : spec.value_size]
        else:
            v_XCKH = from_stored(read(cache.v_pages, index), kind)
        # A page's unused tail may hold anything, nan included; 0 x nan would poison the sum.
        v_scales = cache.k_scales if cache.v_pages is None else cache.v_scales
        if v_scales is None:
            written = keys_C[None, :] <= longest_X[:, None]
            v_XCKH = jnp.where(written[:, :, None, None], v_XCKH, 0)
        else:
            weights = jnp.where(seen, weights * _by_head(read(v_scales, index)), 0.0)
        return new_top, total, products.add(out, shrink, weights, v_XCKH)

    x, tile, kv_heads, groups, _ = q_XQKGH.shape
    shape = (x, kv_heads, groups, tile)
    if sink is None:
        start = (jnp.full(shape, MASKED), jnp.zeros(shape), products.zeros)
    else:
        top = jnp.broadcast_to(sink[None, :, :, None], shape)
        start = (top, jnp.ones(shape), products.zeros)
    last = jnp.max(longest_X) // block + 1
    first = jnp.int32(0)
    if spec.window is not None:
        lowest = jnp.min(jnp.where(positions_XQ < 0, jnp.iinfo(jnp.int32).max, positions_XQ))
        first = jnp.maximum(0, lowest - spec.window + 1) // block
        first = jnp.minimum(first, last)
    _, total, out = jax.lax.fori_loop(first, last, visit, start)
    out = products.heads(out) / jnp.where(total == 0, 1.0, total)[..., None]
    return jnp.transpose(out, (0, 3, 1, 2, 4))


def _by_head(scales_XCK: Float[Array, "X C K"]) -> Float[Array, "X K 1 1 C"]:
    """Scales of a block's tokens, laid out to multiply scores or weights `[X, K, G, Q, C]`."""
    return jnp.swapaxes(scales_XCK, 1, 2)[:, :, None, None]


class _Products(NamedTuple):
    """The two matmuls of attention with one block of keys, in the form that suits the tile."""

    scores: Callable[[Float[Array, "X C K H"]], Float[Array, "X K G Q C"]]
    add: Callable[[Array, Array, Array, Float[Array, "X C K V"]], Array]
    """`(out, shrink, weights [X K G Q C], values) -> out`"""
    heads: Callable[[Array], Float[Array, "X K G Q V"]]
    zeros: Array


def _by_kv_head(q_XQKGH: Float[Array, "X Q K G H"], value: int) -> _Products:
    """One matmul per kv head; the block's keys and values are transposed to heads first.

    Here, in fp32: XLA, left to do it on the way into the product, takes for a decode of 8 sequences
    of 1,024 keys (32 heads, 8 kv heads of 128) 2.7 times as long, and for a prompt of 2,048 tokens
    1.06 times (12 heads; 2 CPU cores). In bf16 that holds for the keys of single queries alone.
    """
    x, tile, kv_heads, groups, size = q_XQKGH.shape
    num_rows = groups * tile
    q_XKMH = jnp.transpose(q_XQKGH, (0, 2, 3, 1, 4)).reshape(x, kv_heads, num_rows, size)

    def product(equation: str, rows_XKM: Array, block_XCKH: Array, *, moves: bool) -> Array:
        block = jnp.swapaxes(block_XCKH, 1, 2) if moves else block_XCKH
        equation = equation.format("XKCH" if moves else "XCKH")
        # All queries of a head are rows of one product, and none may see where it stands there.
        padding = even_rows(num_rows) - num_rows
        rows_XKM = jnp.pad(rows_XKM, ((0, 0), (0, 0), (0, padding), (0, 0)))
        out = jnp.einsum(equation, rows_XKM, block, preferred_element_type=jnp.float32)
        return out[:, :, :num_rows].reshape(x, kv_heads, groups, tile, -1)

    def scores(k_XCKH: Array) -> Array:
        moves = k_XCKH.dtype == jnp.float32 or tile == 1
        return product("XKMH,{}->XKMC", q_XKMH, k_XCKH, moves=moves)

    def add(out: Array, shrink: Array, weights: Array, v_XCKH: Array) -> Array:
        w_XKMC = weights.astype(v_XCKH.dtype).reshape(x, kv_heads, num_rows, -1)
        moves = v_XCKH.dtype == jnp.float32
        new = product("XKMC,{}->XKMH", w_XKMC, v_XCKH, moves=moves)
        return out * shrink[..., None] + new

    return _Products(scores, add, lambda out: out, jnp.zeros((x, kv_heads, groups, tile, value)))


def _one_query(q_X1KGH: Float[Array, "X 1 K G H"], value: int) -> _Products:
    """One matmul for all heads over the pages as they lie, without a transpose.

    Each query is laid out over all kv heads, zero but in its own (M = K x H), so that keys are read
    once as `[C, M]`; of the values' product only a query's own head is kept. That multiplies by
    K - 1 parts of zeros, which costs less than moving the block where heads are few: to move it
    took 1.3 to 2.1 times as long for 4 to 16 heads (0.85 and 0.93 with 2 kv heads), as long for 24,
    and 0.45 to 0.9 for 28 to 32 (8 sequences of 512 keys, fp32, two cores of an AMD EPYC).

    Scores are formed keys first, and XLA is kept from turning that round: on a CPU it would pack
    the queries' matrix, at 1.2 to 3.4 times the time (8 and 16 sequences of 256 keys, 1 to 12 kv
    heads of 64 or 128, jax 0.10.2).
    """
    x, _, kv_heads, groups, _ = q_X1KGH.shape
    own = jnp.eye(kv_heads, dtype=q_X1KGH.dtype)
    q_XNM = jnp.einsum("XKGH,KJ->XKGJH", q_X1KGH[:, 0], own).reshape(x, kv_heads * groups, -1)

    def scores(k_XCKH: Array) -> Array:
        k_XCM = k_XCKH.reshape(*k_XCKH.shape[:2], -1)
        s_XCN = jnp.einsum("XCM,XNM->XCN", k_XCM, q_XNM, preferred_element_type=jnp.float32)
        s_XCN = jax.lax.optimization_barrier(s_XCN)
        return jnp.swapaxes(s_XCN, 1, 2).reshape(x, kv_heads, groups, 1, -1)

    def add(out_XNM: Array, shrink: Array, weights: Array, v_XCKH: Array) -> Array:
        v_XCM = v_XCKH.reshape(*v_XCKH.shape[:2], -1)
        w_XNC = weights.reshape(x, kv_heads * groups, -1).astype(v_XCM.dtype)
        new = jnp.einsum("XNC,XCM->XNM", w_XNC, v_XCM, preferred_element_type=jnp.float32)
        return out_XNM * shrink.reshape(x, -1, 1) + new

    def heads(out_XNM: Array) -> Array:
        out_XKGJH = out_XNM.reshape(x, kv_heads, groups, kv_heads, value)
        own_head = jnp.arange(kv_heads)[None, :, None, None, None]
        return jnp.take_along_axis(out_XKGJH, own_head, axis=3)

    return _Products(scores, add, heads, jnp.zeros((x, kv_heads * groups, kv_heads * value)))
