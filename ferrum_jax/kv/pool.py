"""The pages of a cache: each one is free, or held by so many tables."""

from __future__ import annotations

from collections.abc import Iterable

from ferrum_jax.types import TRASH_PAGE, ResourceExhausted, SchedulerError


class BlockPool:
    """Hands out page numbers and counts who holds them; the trash page is never handed out.

    Taking and giving back a page is O(1). The page given back last is handed out first: it is the
    likeliest to be in a cache of the device still.
    """

    def __init__(self, num_pages: int):
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

    @property
    def num_free(self) -> int:
        return len(self._free)

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
        if count > len(self._free):
            raise ResourceExhausted(
                f"{count} KV pages are needed and {len(self._free)} of {self.num_total} are free; "
                "end or preempt sequences, or raise EngineConfig.num_pages or memory_fraction"
            )
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

    def free(self, pages: Iterable[int]) -> None:
        """Give up one hold on each page; a page that nobody holds any more is free.

        Raises:
            SchedulerError: a page is free already, or there is none of that number. The pages
                before it in the order given have been given up.
        """
        for page in pages:
            self._check_held(page, "freed")
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)

    def _check_held(self, page: int, verb: str) -> None:
        if not 0 <= page < len(self._holders) or not self._holders[page]:
            raise SchedulerError(
                f"page {page} cannot be {verb}: nobody holds it; pages 1 to {self.num_total} can "
                f"be held, and each hold is given up once"
            )
