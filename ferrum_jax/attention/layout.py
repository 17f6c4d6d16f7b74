"""How a step's tokens lie: where each one's key goes, and which tiles of queries they form.

A *tile* is up to so many consecutive tokens of one sequence, which share one read of its keys.
Wide ones are what a prompt wants, and a sequence that has one token in a step wants none of them:
in steps that are long enough for both such tokens form tiles of their own, several of which go
along their sequences together.

Dimension key: T tokens, R rows (sequences), B pages a sequence, X tiles, Q tokens of a tile.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from ferrum_jax.types import TRASH_PAGE, StepBatch, cut_runs

BLOCK_KEYS = 128
"""Keys that one iteration reads: long enough to amortise the loop, short enough to waste little.
Tiles that are wider than that read as many keys as they have queries."""
DECODE_BLOCK_KEYS = 64
"""The same for tiles of decodes, where each sequence's last block is read in vain to its end. With
128 a step took 1.02, 1.12 and 1.04 times as long for 1, 8 and 16 sequences of 130 to 160 tokens,
and as long for 1,000 (100 million parameters, 2 CPU cores)."""
TILE = 32
"""Queries of a tile in a short step."""
WIDE_FROM, WIDEST = 128, 256
"""Tokens from which a step has wide tiles, and their most queries."""
FEW = 64
"""Queries up to which a tile that has room for more runs as one of so many, and the keys that it
then reads at once: prompts of 12 to 40 tokens take 0.96 of the time that they take with 128."""
DECODE_GROUP = 16
"""Sequences of one token each that walk their pages together."""


@struct.dataclass
class QueryTiles:
    """Tiles of queries; those that hold tokens stand first, in the order of the tokens."""

    rows: Int[Array, " X"]
    tokens: Int[Array, "X Q"]
    """index into the tokens"""
    positions: Int[Array, "X Q"]
    """-1 where the tile has no token"""
    of_token: Int[Array, " T"]
    """flat index into [X, Q], of the tokens that are in a tile"""
    used_groups: Int[Array, ""]
    """groups that hold a tile with tokens; the others are behind them"""
    group: int = struct.field(pytree_node=False)
    """tiles that run together"""
    block_pages: int = struct.field(pytree_node=False)
    """pages that one iteration reads"""

    @property
    def size(self) -> int:
        """Q"""
        return self.tokens.shape[1]


@struct.dataclass
class PagedMeta:
    """What all layers of a step share: where tokens lie, which tiles they form."""

    rows: Int[Array, " T"]
    positions: Int[Array, " T"]
    valid: Bool[Array, " T"]
    write_pages: Int[Array, " T"]
    block_tables: Int[Array, "R B"]
    context_lens: Int[Array, " R"]
    query_starts: Int[Array, " S"]
    """S = R + 1"""
    tiles: QueryTiles
    lone_tiles: QueryTiles | None
    """of the sequences that have one token in the step; None: they are among the others"""

    @property
    def lone(self) -> Bool[Array, " T"]:
        """Whether a token is its sequence's only one."""
        return (jnp.diff(self.query_starts) == 1)[self.rows] & self.valid


def paged_meta(
    batch: StepBatch, num_tokens: int, page_size: int, *, fixed: tuple[int, int] | None = None
) -> PagedMeta:
    """The layout of a step of `num_tokens` tokens (padding included), once for all layers.

    Args:
        fixed: queries of a tile and tiles of a group, whatever the step holds; keys then come in
            blocks of one size, however few pages a sequence may have. So the shape of every
            product, and the order of every sum, is the same for all steps and all lengths.
    """
    num_rows, num_pages = batch.block_tables.shape
    index = jnp.arange(num_tokens, dtype=jnp.int32)
    rows = jnp.searchsorted(batch.query_starts[1:], index, side="right").astype(jnp.int32)
    valid = rows < num_rows
    rows = jnp.minimum(rows, num_rows - 1)
    lengths = jnp.diff(batch.query_starts)
    offset = index - batch.query_starts[rows]
    positions = jnp.where(valid, batch.context_lens[rows] - lengths[rows] + offset, 0)
    pages = batch.block_tables[rows, positions // page_size]

    with_draft, lone_tiles = 1 + batch.draft_len, None

    def tiles(lengths: Array, size: int, group: int, keys: int, **most: int) -> QueryTiles:
        limit = keys if fixed else num_pages
        block_pages = max(1, min(keys // page_size, limit))
        return tiles_of(batch, positions, rows, lengths, size, group, block_pages, **most)

    if fixed is not None:
        all_tiles = tiles(lengths, *fixed, BLOCK_KEYS)
    elif num_tokens == num_rows * with_draft:
        keys = DECODE_BLOCK_KEYS
        all_tiles = tiles(lengths, with_draft, DECODE_GROUP, keys, most=num_rows)
    elif num_tokens < WIDE_FROM:
        all_tiles = tiles(lengths, min(TILE, num_tokens), 1, BLOCK_KEYS)
    else:
        size, lone = min(WIDEST, num_tokens), lengths == 1
        all_tiles = tiles(jnp.where(lone, 0, lengths), size, 1, max(BLOCK_KEYS, size))
        lengths = jnp.where(lone, 1, 0)
        lone_tiles = tiles(lengths, 1, DECODE_GROUP, DECODE_BLOCK_KEYS, most=num_rows)
    return PagedMeta(
        rows=rows,
        positions=positions,
        valid=valid,
        write_pages=jnp.where(valid, pages, TRASH_PAGE),
        block_tables=batch.block_tables,
        context_lens=batch.context_lens,
        query_starts=batch.query_starts,
        tiles=all_tiles,
        lone_tiles=lone_tiles,
    )


def tiles_of(
    batch: StepBatch,
    positions: Int[Array, " T"],
    rows: Int[Array, " T"],
    lengths: Int[Array, " R"],
    size: int,
    group: int,
    block_pages: int,
    *,
    most: int | None = None,
) -> QueryTiles:
    """Tiles of the rows' tokens; rows that are to have none have a length of 0.

    Args:
        most: tiles that there can be; None: as many as any step of these sizes may have.
    """
    num_rows, num_tokens = lengths.shape[0], positions.shape[0]
    starts, ends = batch.query_starts[:-1], batch.query_starts[1:]
    count = min(most or num_tokens // size + num_rows, num_tokens)
    group = min(group, count)
    count += -count % group
    cut = cut_runs(starts, lengths, size, count)
    tokens = cut.starts[:, None] + jnp.arange(size, dtype=jnp.int32)[None, :]
    inside = cut.used[:, None] & (tokens < ends[cut.runs][:, None])
    tokens = jnp.minimum(tokens, num_tokens - 1)
    return QueryTiles(
        rows=cut.runs,
        tokens=tokens,
        positions=jnp.where(inside, positions[tokens], -1),
        of_token=cut.places(rows, jnp.arange(num_tokens, dtype=jnp.int32) - starts[rows]),
        used_groups=-(-jnp.sum(cut.used) // group),
        group=group,
        block_pages=block_pages,
    )


def layout_in_tiles(meta: PagedMeta, batch: StepBatch) -> QueryTiles:
    """All tokens of a step in tiles of moderate size, whatever the attention takes."""
    if meta.lone_tiles is None:
        return meta.tiles
    lengths, pages = jnp.diff(batch.query_starts), meta.tiles.block_pages
    return tiles_of(batch, meta.positions, meta.rows, lengths, TILE, 1, pages)
