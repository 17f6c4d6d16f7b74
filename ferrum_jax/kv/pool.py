"""The pages of a cache: each one is free, held by so many tables, or cached for whoever comes."""

from __future__ import annotations

from collections.abc import Iterable

from ferrum_jax.kv.prefix import PrefixCache
from ferrum_jax.types import TRASH_PAGE, ResourceExhausted, SchedulerError


class BlockPool:
    """Hands out page numbers and counts who holds them; the trash page is never handed out.

    Taking and giving back a page is O(1). The page given back last is handed out first: it is the
    likeliest to be in a cache of the device still. Pages that the prefix cache knows are handed
    out when no others are left.
    """

    def __init__(self, num_pages: int, cache: PrefixCache | None = None):
        """A pool of `num_pages` pages, all free, the trash page counted.

        Raises:
            SchedulerError: fewer than two pages: nothing but the trash page.
        """
        if num_pages < 2:
            raise SchedulerError(
                f"a pool of {num_pages} pages has none to hand out beside the trash page; "
                "make it of at least 2"
            )
        self._free = [page for page in range(num_pages - 1, -1, -1) if page != TRASH_PAGE]
        self._holders = [0] * num_pages
        self._cache = cache

    @property
    def num_free(self) -> int:
        """Pages that nobody holds, the cached ones among them."""
        return len(self._free) + (0 if self._cache is None else self._cache.num_idle)

    @property
    def num_total(self) -> int:
        """Pages that can be handed out: all but the trash page."""
        return len(self._holders) - 1

    def holders(self, page: int) -> int:
        """How many times a page is held; 0 when it is free."""
        return self._holders[page]

    def allocate(self, count: int) -> list[int]:
        """Take `count` free pages, each then held once; all of them or none.

        Raises:
            ResourceExhausted: fewer are free.
        """
        if count > self.num_free:
            raise ResourceExhausted(
                f"{count} KV pages are needed and {self.num_free} of {self.num_total} are free; "
                "end or preempt sequences, or raise EngineConfig.num_pages or memory_fraction"
            )
        while self._cache is not None and len(self._free) < count:
            self.uncache(self._cache.evict())
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Hold each page once more.

        Raises:
            SchedulerError: a page is free, or there is none of that number.
        """
        for page in pages:
            self._check_held(page, "shared")
            self._holders[page] += 1

    def take_cached(self, page: int) -> None:
        """Hold a page that the prefix cache knows, whether somebody holds it already or not."""
        if self._cache is None or page not in self._cache:
            raise SchedulerError(f"page {page} is not in the prefix cache; take a page that is")
        if not self._holders[page]:
            self._cache.remove_idle(page)
        self._holders[page] += 1

    def free(self, pages: Iterable[int]) -> None:
        """Give up one hold on each page; a page that nobody holds any more is free.

        Raises:
            SchedulerError: a page is free already, or there is none of that number. The pages
                before it in the order given have been given up.
        """
        for page in pages:
            self._check_held(page, "freed")
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if self._cache is not None and page in self._cache:
                self._cache.add_idle(page)
            else:
                self._free.append(page)

    def uncache(self, pages: Iterable[int]) -> None:
        """Take pages that the prefix cache has forgotten; those that nobody holds are free."""
        self._free += [page for page in pages if not self._holders[page]]

    def _check_held(self, page: int, verb: str) -> None:
        if not 0 <= page < len(self._holders) or not self._holders[page]:
            raise SchedulerError(
                f"page {page} cannot be {verb}: nobody holds it; pages 1 to {self.num_total} can "
                f"be held, and each hold is given up once"
            )
