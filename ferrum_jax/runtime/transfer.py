"""Moves whole pages: within the cache, to host memory and back.

Every leaf of a cache's layers has the pages as its leading axis, so one function serves all dtypes.
Pages move in groups of two fixed sizes, filled up with the trash page: a few small programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from ferrum_jax.types import TRASH_PAGE, KVCache

GROUPS = (64, 8)
"""Pages that one call moves, the larger first."""


@dataclass
class SwappedPages:
    """Pages on their way to host memory, or there: per group the layers' arrays of so many."""

    groups: list[Any]
    settled: bool = False

    def settle(self) -> None:
        """Wait until all are on the host, and let the device's copies go."""
        if not self.settled:
            self.groups = [jax.tree.map(np.asarray, group) for group in self.groups]
            self.settled = True

    @property
    def nbytes(self) -> int:
        return sum(leaf.nbytes for group in self.groups for leaf in jax.tree.leaves(group))


def copy_pages(cache: KVCache, pairs: Sequence[tuple[int, int]]) -> KVCache:
    """The cache with page `to` equal to page `from` for each pair `(from, to)`; consumes `cache`.

    A pair reads what stood there before all pairs behind it.
    """
    sources, targets = [a for a, _ in pairs], [b for _, b in pairs]
    for old, new in zip(_groups(sources), _groups(targets), strict=True):
        cache = _copy(cache, old, new)
    return cache


def read_pages(cache: KVCache, pages: Sequence[int]) -> SwappedPages:
    """The content of pages, on its way to the host; later changes of the cache do not reach it."""
    groups = [_read(cache, group) for group in _groups(pages)]
    for leaf in jax.tree.leaves(groups):
        leaf.copy_to_host_async()
    return SwappedPages(groups)


def write_pages(cache: KVCache, pages: Sequence[int], content: SwappedPages) -> KVCache:
    """The cache with the content in those pages; consumes `cache`."""
    for group, part in zip(_groups(pages), content.groups, strict=True):
        cache = _write(cache, group, part)
    return cache


def warm_up_transfers(cache: KVCache) -> KVCache:
    """Compile every program of this file, by moving the trash page; consumes `cache`."""
    for size in GROUPS:
        pages = [TRASH_PAGE] * size
        cache = copy_pages(cache, list(zip(pages, pages, strict=True)))
        cache = write_pages(cache, pages, read_pages(cache, pages))
    return cache


def _groups(pages: Sequence[int]) -> Iterator[np.ndarray]:
    """The pages in groups of the fixed sizes, the last filled up with the trash page."""
    large, small = GROUPS
    start = 0
    while start < len(pages):
        size = large if len(pages) - start > small else small
        group = np.full(size, TRASH_PAGE, np.int32)
        part = pages[start : start + size]
        group[: len(part)] = part
        yield group
        start += size


@jax.jit
def _read(cache: KVCache, pages: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[pages], cache.layers)


@partial(jax.jit, donate_argnums=0)
def _write(cache: KVCache, pages: jax.Array, content: Any) -> KVCache:
    layers = jax.tree.map(lambda leaf, part: leaf.at[pages].set(part), cache.layers, content)
    return replace(cache, layers=layers)


@partial(jax.jit, donate_argnums=0)
def _copy(cache: KVCache, sources: jax.Array, targets: jax.Array) -> KVCache:
    layers = jax.tree.map(lambda leaf: leaf.at[targets].set(leaf[sources]), cache.layers)
    return replace(cache, layers=layers)
