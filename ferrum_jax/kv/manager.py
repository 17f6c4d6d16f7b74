"""Grows, shares, copies and releases the block tables of sequences."""

from __future__ import annotations

from collections.abc import Sequence

from ferrum_jax.kv.eviction import make_eviction
from ferrum_jax.kv.pool import BlockPool
from ferrum_jax.kv.prefix import PageHash, PrefixCache, hash_page, root_digest
from ferrum_jax.types import BlockTable, KVCacheConfig, ResourceExhausted, SchedulerError


class BlockTableManager:
    """The `BlockManager` over one pool: every page is free, cached, or in one table or more.

    A page that is in several tables, or cached, is never written: the table that is about to write
    to it gets a copy of its own (`prepare`).
    """

    def __init__(
        self,
        kv: KVCacheConfig,
        *,
        prefix_caching: bool = False,
        eviction: str = "lru",
        hasher: PageHash = hash_page,
        num_host_pages: int = 0,
    ):
        """Args:
        hasher: of a page's content; for tests, which prove that a bad one only costs hits.
        num_host_pages: pages that swapped sequences may fill in host memory.
        """
        self.prefix = PrefixCache(make_eviction(eviction), hasher) if prefix_caching else None
        self.pool = BlockPool(kv.num_pages, self.prefix)
        self._page_size = kv.page_size
        self.num_host_free = num_host_pages
        self.num_queried = 0
        self.num_hits = 0

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

    @property
    def caches_prefixes(self) -> bool:
        return self.prefix is not None

    def pages_for(self, num_tokens: int) -> int:
        """Pages that so many tokens fill, the last perhaps in part."""
        return -(-num_tokens // self._page_size)

    def num_missing(self, table: BlockTable, start: int, end: int) -> int:
        """Pages to take before tokens `[start, end)` can be written: new ones and a copy."""
        missing = max(0, -(-end // self._page_size) - len(table.pages))
        return missing + (self._shared_tail(table, start) is not None)

    def can_write(self, table: BlockTable, start: int, end: int) -> bool:
        """Whether the pages free now suffice to write tokens `[start, end)`."""
        return self.num_missing(table, start, end) <= self.pool.num_free

    def prepare(self, table: BlockTable, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """Give the table pages of its own for tokens `[start, end)`.

        Returns:
            The copies `(from, to)` that the device has to make before anything is written.

        Raises:
            ResourceExhausted: too few pages are free; the table is then as it was.
        """
        missing = self.num_missing(table, start, end)
        if missing > self.pool.num_free:
            raise ResourceExhausted(
                f"a sequence of {end} tokens needs {missing} more KV pages of "
                f"{self._page_size} tokens and {self.num_free} of {self.num_total} are free; "
                "end or preempt sequences, or raise EngineConfig.num_pages or memory_fraction"
            )
        index = self._shared_tail(table, start)
        pages = self.pool.allocate(missing)
        copies: tuple[tuple[int, int], ...] = ()
        if index is not None:
            old, new = table.pages[index], pages.pop()
            table.pages[index] = new
            self.pool.free([old])
            copies = ((old, new),)
        table.pages += pages
        table.tail_shared, table.room = False, len(table.pages) * self._page_size
        return copies

    def fork(self, table: BlockTable, num_tokens: int) -> BlockTable:
        """A second table over the same pages, as far as the first `num_tokens` tokens reach."""
        count = self.pages_for(num_tokens)
        if count > len(table.pages):
            raise SchedulerError(
                f"{num_tokens} tokens fill {count} pages and the table has {len(table.pages)}; "
                "fork at most as many tokens as it holds"
            )
        pages = table.pages[:count]
        self.pool.share(pages)
        table.tail_shared, table.room = True, 0
        fork = BlockTable(
            pages,
            tail_shared=True,
            digests=list(table.digests),
            num_cached=table.num_cached,
            anchor=table.anchor,
        )
        self._uncover(fork, num_tokens // self._page_size)
        return fork

    def truncate(self, table: BlockTable, num_tokens: int) -> None:
        """Give up the pages behind the first `num_tokens` tokens."""
        count = self.pages_for(num_tokens)
        dropped, table.pages[count:] = table.pages[count:], []
        self.pool.free(reversed(dropped))
        table.tail_shared, table.room = True, 0
        self._uncover(table, num_tokens // self._page_size)

    def release(self, table: BlockTable) -> None:
        """Give up the table's hold on its pages, and empty it; an empty table is left alone."""
        pages, table.pages = table.pages, []
        table.tail_shared, table.room = False, 0
        table.num_cached, table.anchor = 0, None
        # Last page first, so that the pool hands the pages out again in their old order, and the
        # end of a prefix is evicted before its beginning.
        self.pool.free(reversed(pages))

    def take_prefix(self, table: BlockTable, tokens: Sequence[int], salt: str, limit: int) -> int:
        """Let an empty table share the cached pages of its tokens' beginning.

        Args:
            limit: at most so many tokens are taken over.

        Returns:
            Tokens taken over: full pages only.
        """
        if self.prefix is None:
            return 0
        count = limit // self._page_size
        self._extend_digests(self.prefix, table, tokens, salt, count)
        pages = [self._page_tokens(tokens, i) for i in range(count)]
        found = self.prefix.match(table.digests[:count], pages, salt)
        for entry in found:
            self.pool.take_cached(entry.page)
        table.pages = [entry.page for entry in found]
        table.num_cached, table.anchor = len(found), found[-1] if found else None
        return len(found) * self._page_size

    def count_lookup(self, queried: int, hits: int) -> None:
        """Add a sequence's start to the hit statistics, in tokens."""
        self.num_queried += queried
        self.num_hits += hits

    def cache_full_pages(
        self, table: BlockTable, tokens: Sequence[int], num_tokens: int, salt: str
    ) -> None:
        """Offer the table's pages that its first `num_tokens` tokens fill to whoever comes."""
        count = num_tokens // self._page_size
        if self.prefix is None or count <= table.num_cached:
            return
        self._extend_digests(self.prefix, table, tokens, salt, count)
        first, table.num_cached = table.num_cached, count
        if (
            first and table.anchor is None
        ):  # What comes before cannot be found, so neither can this.
            return
        for i in range(first, count):
            table.anchor = self.prefix.insert(
                table.pages[i], table.digests[i], self._page_tokens(tokens, i), table.anchor, salt
            )
            if table.anchor is None:
                return

    def swap_out(self, table: BlockTable, num_tokens: int) -> tuple[int, ...] | None:
        """Give up the table's pages for room in host memory, which `swap_in` gives back.

        Returns:
            The pages of the first `num_tokens` tokens, to be read before anything is written;
            None, and nothing has changed, where host memory has no room for them.
        """
        count = self.pages_for(num_tokens)
        if count > self.num_host_free:
            return None
        pages = tuple(table.pages[:count])
        self.num_host_free -= count
        self.release(table)
        return pages

    def swap_in(self, num_tokens: int) -> None:
        """Give back the room of a swapped sequence of so many tokens."""
        self.num_host_free += self.pages_for(num_tokens)

    def clear_prefixes(self) -> None:
        """Forget all cached content; pages that sequences hold stay theirs."""
        if self.prefix is not None:
            self.pool.uncache(self.prefix.clear())

    def _page_tokens(self, tokens: Sequence[int], index: int) -> tuple[int, ...]:
        size = self._page_size
        return tuple(tokens[index * size : (index + 1) * size])

    def _extend_digests(
        self, prefix: PrefixCache, table: BlockTable, tokens: Sequence[int], salt: str, count: int
    ) -> None:
        for i in range(len(table.digests), count):
            before = table.digests[i - 1] if i else root_digest(salt)
            table.digests.append(prefix.hash(before, self._page_tokens(tokens, i)))

    def _shared_tail(self, table: BlockTable, start: int) -> int | None:
        """Which of the table's pages a write at `start` has to copy first."""
        index = start // self._page_size
        if not table.tail_shared or index >= len(table.pages):
            return None
        page = table.pages[index]
        shared = self.pool.holders(page) > 1 or (self.prefix is not None and page in self.prefix)
        return index if shared else None

    def _uncover(self, table: BlockTable, count: int) -> None:
        """Forget what is known of the content behind the first `count` pages: it will change."""
        del table.digests[count:]
        if table.num_cached > count:
            if table.anchor is not None:
                table.anchor = table.anchor.back(table.num_cached - count)
            table.num_cached = count
