"""Paged attention in plain XLA, for every backend: ragged queries over a pool of KV pages.

The queries of a step are cut into *tiles*: up to `tile` consecutive tokens of one sequence. Tiles
run in groups; a group walks its sequences' pages in blocks of a fixed number of keys with an
online softmax (Milakov and Gimelshein 2018), as far as its longest context reaches and from where
its window starts. So the work follows the actual context lengths, not the longest allowed one.

Dimension key: T tokens, R rows (sequences), B pages a sequence, X tiles of a group, Q tokens of a
tile, C keys of a block, N query heads, K kv heads, G = N / K, H head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from ferrum_jax.attention.dense import MASKED, soft_capped
from ferrum_jax.interfaces import Attend
from ferrum_jax.types import TRASH_PAGE, AttentionConfig, LayerCache, StepBatch

BLOCK_KEYS = 128
"""Keys that one iteration reads: long enough to amortise the loop, short enough to waste little."""
PREFILL_TILE = 32
"""Queries that share one read of the keys in a step that mixes prefill and decode."""
DECODE_GROUP = 16
"""Sequences of a pure decode step that walk their pages together."""


@struct.dataclass
class PagedMeta:
    """What all layers of a step share: where tokens lie, which tiles they form."""

    rows: Int[Array, " T"]
    positions: Int[Array, " T"]
    valid: Int[Array, " T"]
    write_pages: Int[Array, " T"]
    block_tables: Int[Array, "R B"]
    tile_rows: Int[Array, " X"]
    tile_tokens: Int[Array, "X Q"]
    """index into the tokens; T where the tile has no token"""
    tile_of_token: Int[Array, " T"]
    """flat index into [X, Q]"""
    tile: int = struct.field(pytree_node=False)
    group: int = struct.field(pytree_node=False)


def paged_meta(batch: StepBatch, num_tokens: int, page_size: int) -> PagedMeta:
    """The layout of a step of `num_tokens` tokens (padding included), once for all layers."""
    num_rows = batch.slots.shape[0]
    index = jnp.arange(num_tokens, dtype=jnp.int32)
    rows = jnp.searchsorted(batch.query_starts[1:], index, side="right").astype(jnp.int32)
    valid = rows < num_rows
    rows = jnp.minimum(rows, num_rows - 1)
    lengths = jnp.diff(batch.query_starts)
    offset = index - batch.query_starts[rows]
    positions = jnp.where(valid, batch.context_lens[rows] - lengths[rows] + offset, 0)
    pages = batch.block_tables[rows, positions // page_size]

    decode_only = num_tokens == num_rows
    tile = 1 if decode_only else min(PREFILL_TILE, num_tokens)
    tiles_of_row = -(-lengths // tile)
    first_tile = jnp.cumsum(tiles_of_row) - tiles_of_row
    num_tiles = num_rows if decode_only else num_tokens // tile + num_rows
    group = min(DECODE_GROUP, num_tiles) if decode_only else 1
    num_tiles += -num_tiles % group
    tile_index = jnp.arange(num_tiles, dtype=jnp.int32)
    tile_rows = jnp.searchsorted(jnp.cumsum(tiles_of_row), tile_index, side="right")
    used = tile_rows < num_rows
    tile_rows = jnp.minimum(tile_rows, num_rows - 1).astype(jnp.int32)
    start = batch.query_starts[tile_rows] + (tile_index - first_tile[tile_rows]) * tile
    tokens = start[:, None] + jnp.arange(tile, dtype=jnp.int32)[None, :]
    inside = used[:, None] & (tokens < batch.query_starts[tile_rows + 1][:, None])
    return PagedMeta(
        rows=rows,
        positions=positions,
        valid=valid,
        write_pages=jnp.where(valid, pages, TRASH_PAGE),
        block_tables=batch.block_tables,
        tile_rows=tile_rows,
        tile_tokens=jnp.where(inside, tokens, num_tokens).astype(jnp.int32),
        tile_of_token=((first_tile[rows] + offset // tile) * tile + offset % tile),
        tile=tile,
        group=group,
    )


def paged_attention(step: PagedMeta) -> Attend:
    """An `Attend` bound to one step's layout, to be made inside the jitted step."""
    return partial(_attend, step=step)


def _attend(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    layer_cache: LayerCache | None,
    meta: Int[Array, " T"],
    spec: AttentionConfig,
    *,
    step: PagedMeta,
    sinks: Float[Array, " N"] | None = None,
    tap_pattern: Callable[[Array], Array] | None = None,
) -> tuple[Float[Array, "T N H"], LayerCache]:
    """Write the step's keys and values, then attend. `tap_pattern` is never called."""
    del meta, tap_pattern
    assert layer_cache is not None
    cache = write_kv(layer_cache, k, v, step)
    groups = spec.num_heads // spec.num_kv_heads
    q_padded = jnp.concatenate([q, jnp.zeros_like(q[:1])])
    q_tiles = q_padded[step.tile_tokens].reshape(
        -1, step.group, step.tile, spec.num_kv_heads, groups, spec.head_dim
    )
    positions = jnp.concatenate([step.positions, jnp.full(1, -1, jnp.int32)])
    position_tiles = positions[step.tile_tokens].reshape(-1, step.group, step.tile)
    rows = step.tile_rows.reshape(-1, step.group)
    sink = None if sinks is None else sinks.astype(jnp.float32).reshape(-1, groups)
    body = partial(_group, cache=cache, tables=step.block_tables, spec=spec, sink=sink)
    if rows.shape[0] == 1:
        out = body((q_tiles[0], position_tiles[0], rows[0]))[None]
    else:
        out = jax.lax.map(body, (q_tiles, position_tiles, rows))
    out = out.reshape(-1, spec.num_heads, spec.head_dim)[step.tile_of_token]
    return out.astype(q.dtype), cache


def write_kv(cache: LayerCache, k: Array, v: Array, step: PagedMeta) -> LayerCache:
    """The cache with each token's key and value at its place; padding goes to the trash page."""
    offsets = step.positions % cache.k_pages.shape[1]
    at = (step.write_pages, offsets)
    return LayerCache(
        k_pages=cache.k_pages.at[at].set(k.astype(cache.k_pages.dtype)),
        v_pages=cache.v_pages.at[at].set(v.astype(cache.v_pages.dtype)),
    )


def _group(
    tiles: tuple[Array, Array, Array],
    *,
    cache: LayerCache,
    tables: Array,
    spec: AttentionConfig,
    sink: Array | None,
) -> Float[Array, "X Q K G H"]:
    """Online softmax of a group of tiles over their sequences' pages, block by block."""
    q_XQKGH, positions_XQ, rows_X = tiles
    page_size = cache.k_pages.shape[1]
    pages_per_block = max(1, min(BLOCK_KEYS // page_size, tables.shape[1]))
    block = pages_per_block * page_size
    padding = -tables.shape[1] % pages_per_block
    tables_XB = jnp.pad(tables[rows_X], ((0, 0), (0, padding)), constant_values=TRASH_PAGE)

    def read(pages: Array, index: Array) -> Array:
        ids = jax.lax.dynamic_slice_in_dim(tables_XB, index * pages_per_block, pages_per_block, 1)
        return pages[ids].reshape(ids.shape[0], block, *pages.shape[2:])

    def visit(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, out = carry
        k_XCKH, v_XCKH = read(cache.k_pages, index), read(cache.v_pages, index)
        scores = jnp.einsum(
            "XQKGH,XCKH->XKGQC", q_XQKGH, k_XCKH, preferred_element_type=jnp.float32
        )
        scores = soft_capped(scores * spec.scale, spec.soft_cap)
        keys_C = index * block + jnp.arange(block, dtype=jnp.int32)
        distance_XQC = positions_XQ[:, :, None] - keys_C
        seen = distance_XQC >= 0
        if spec.window is not None:
            seen &= distance_XQC < spec.window
        seen = seen[:, None, None]
        new_top = jnp.maximum(top, jnp.max(jnp.where(seen, scores, MASKED), axis=-1))
        weights = jnp.where(seen, jnp.exp(scores - new_top[..., None]), 0.0)
        shrink = jnp.exp(top - new_top)
        # A page's unused tail may hold anything, nan included; 0 x nan would poison the sum.
        written = keys_C[None, :] <= jnp.max(positions_XQ, axis=1, keepdims=True)
        v_XCKH = jnp.where(written[:, :, None, None], v_XCKH, 0)
        out = out * shrink[..., None] + jnp.einsum(
            "XKGQC,XCKH->XKGQH",
            weights.astype(v_XCKH.dtype),
            v_XCKH,
            preferred_element_type=jnp.float32,
        )
        return new_top, total * shrink + jnp.sum(weights, axis=-1), out

    x, tile, kv_heads, groups, head = q_XQKGH.shape
    shape = (x, kv_heads, groups, tile)
    if sink is None:
        start = (jnp.full(shape, MASKED), jnp.zeros(shape), jnp.zeros((*shape, head)))
    else:
        top = jnp.broadcast_to(sink[None, :, :, None], shape)
        start = (top, jnp.ones(shape), jnp.zeros((*shape, head)))
    last = jnp.max(positions_XQ) // block + 1
    first = jnp.int32(0)
    if spec.window is not None:
        lowest = jnp.min(jnp.where(positions_XQ < 0, jnp.iinfo(jnp.int32).max, positions_XQ))
        first = jnp.maximum(0, lowest - spec.window + 1) // block
        first = jnp.minimum(first, last)
    _, total, out = jax.lax.fori_loop(first, last, visit, start)
    out = out / jnp.where(total == 0, 1.0, total)[..., None]
    return jnp.transpose(out, (0, 3, 1, 2, 4))
