"""Grows, forks and releases the block tables of sequences."""

from __future__ import annotations

from ferrum_jax.kv.pool import BlockPool
from ferrum_jax.types import BlockTable, KVCacheConfig, ResourceExhausted


class BlockTableManager:
    """The `BlockManager` over one pool: every page is free, or in one table or more."""

    def __init__(self, kv: KVCacheConfig):
        self.pool = BlockPool(kv.num_pages)
        self._page_size = kv.page_size

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        return self._page_size

    @property
    def num_free(self) -> int:
        return self.pool.num_free

    @property
    def num_total(self) -> int:
        """Pages that sequences can own: the pool without its trash page."""
        return self.pool.num_total

    def pages_for(self, num_tokens: int) -> int:
        """Pages that so many tokens fill, the last perhaps in part."""
        return -(-num_tokens // self._page_size)

    def can_grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether the table can be grown to hold so many tokens with the pages free now."""
        return -(-num_tokens // self._page_size) - len(table.pages) <= self.pool.num_free

    def grow(self, table: BlockTable, num_tokens: int) -> None:
        """Append pages until the table holds so many tokens; a table that does is left alone.

        Raises:
            ResourceExhausted: too few pages are free; the table is then as it was.
        """
        missing = -(-num_tokens // self._page_size) - len(table.pages)
        if missing <= 0:
            return
        if missing > self.pool.num_free:
            raise ResourceExhausted(
                f"a sequence of {num_tokens} tokens needs {missing} more KV pages of "
                f"{self._page_size} tokens and {self.num_free} of {self.num_total} are free; "
                "end or preempt sequences, or raise EngineConfig.num_pages or memory_fraction"
            )
        table.pages += self.pool.allocate(missing)

    def fork(self, table: BlockTable) -> BlockTable:
        """A second table that shares every page.

        Shared pages are for reading: whoever appends tokens to a last page that is filled in part
        copies it first.
        """
        self.pool.share(table.pages)
        return BlockTable(list(table.pages))

    def release(self, table: BlockTable) -> None:
        """Give up the table's hold on its pages, and empty it; an empty table is left alone."""
        pages, table.pages = table.pages, []
        # Last page first, so that the pool hands the pages out again in their old order.
        self.pool.free(reversed(pages))
