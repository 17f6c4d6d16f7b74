"""Which cached page that no sequence uses is given up first: three `EvictionPolicy`s.

A page is *idle* between `add` and `remove`: cached, and in nobody's table. `forget` ends its life
in the cache. Every operation takes amortised O(1) or O(log n) time.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque

from ferrum_jax.interfaces import EvictionPolicy
from ferrum_jax.types import ConfigError


class LRU:
    """The page whose last use ended longest ago."""

    def __init__(self) -> None:
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._idle)

    def add(self, page: int) -> None:
        self._idle[page] = None

    def remove(self, page: int) -> None:
        del self._idle[page]

    def forget(self, page: int) -> None:
        self._idle.pop(page, None)

    def victim(self) -> int | None:
        return next(iter(self._idle), None)


class FIFO:
    """The page that was the first to be cached and in nobody's table, however often used since."""

    def __init__(self) -> None:
        self._births: dict[int, int] = {}
        self._idle: set[int] = set()
        self._heap: list[tuple[int, int]] = []
        self._born = 0

    def __len__(self) -> int:
        return len(self._idle)

    def add(self, page: int) -> None:
        if page not in self._births:
            self._births[page] = self._born
            self._born += 1
        self._idle.add(page)
        if len(self._heap) > 2 * len(self._births) + 16:
            self._heap = [(self._births[page], page) for page in self._idle]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (self._births[page], page))

    def remove(self, page: int) -> None:
        self._idle.remove(page)

    def forget(self, page: int) -> None:
        self._idle.discard(page)
        self._births.pop(page, None)

    def victim(self) -> int | None:
        # Entries of pages that left stay in the heap until they come to its top, or `add` finds
        # that most of it is such.
        while self._heap:
            birth, page = self._heap[0]
            if page in self._idle and self._births[page] == birth:
                return page
            heapq.heappop(self._heap)
        return None


class Clock:
    """Second chance: a hand goes round; a page used since its last visit is passed over once."""

    def __init__(self) -> None:
        self._used: dict[int, bool] = {}
        self._idle: set[int] = set()
        self._ring: deque[int] = deque()
        self._in_ring: set[int] = set()

    def __len__(self) -> int:
        return len(self._idle)

    def add(self, page: int) -> None:
        self._used.setdefault(page, False)
        self._idle.add(page)
        if page not in self._in_ring:
            self._in_ring.add(page)
            self._ring.append(page)

    def remove(self, page: int) -> None:
        self._idle.remove(page)
        self._used[page] = True

    def forget(self, page: int) -> None:
        self._idle.discard(page)
        self._used.pop(page, None)

    def victim(self) -> int | None:
        while self._idle:
            page = self._ring[0]
            if page not in self._idle:
                self._in_ring.discard(self._ring.popleft())
            elif self._used[page]:
                self._used[page] = False
                self._ring.rotate(-1)
            else:
                return page
        return None


_POLICIES: dict[str, type[EvictionPolicy]] = {"lru": LRU, "fifo": FIFO, "clock": Clock}


def make_eviction(name: str) -> EvictionPolicy:
    """A new policy by the name that `EngineConfig.eviction` takes.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _POLICIES:
        raise ConfigError(f"eviction is {name!r}; choose one of {', '.join(_POLICIES)}")
    return _POLICIES[name]()
