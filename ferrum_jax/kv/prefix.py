"""The prefix cache: full pages by the content of all tokens up to their end.

A page's key is sha256 over the key of the page before it and its own tokens; the first page's key
starts from the salt. A key alone proves nothing: on a hit the tokens are compared too, page by page
from the start, so even a hash that always collides gives right answers, only fewer hits.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ferrum_jax.interfaces import EvictionPolicy

PageHash = Callable[[bytes, Sequence[int]], bytes]


def hash_page(before: bytes, tokens: Sequence[int]) -> bytes:
    """sha256 of the chain so far and a page's tokens."""
    return hashlib.sha256(before + array("i", tokens).tobytes()).digest()


def root_digest(salt: str) -> bytes:
    """Where the chain of a salt starts; any text is one, unpaired surrogates too."""
    return hashlib.sha256(b"salt " + salt.encode("utf-8", "surrogatepass")).digest()


@dataclass(eq=False)
class CachedPage:
    """A page whose content is known: its tokens, and through `before` all tokens ahead of them."""

    page: int
    digest: bytes
    tokens: tuple[int, ...]
    before: CachedPage | None = field(repr=False)
    salt: str
    after: set[CachedPage] = field(default_factory=set, repr=False)

    def holds(self, tokens: tuple[int, ...], before: CachedPage | None, salt: str) -> bool:
        """Whether this is the page of those tokens, behind the same page, under the same salt."""
        return self.tokens == tokens and self.before is before and self.salt == salt

    def back(self, count: int) -> CachedPage | None:
        """The entry so many pages before; None: the start."""
        entry: CachedPage | None = self
        for _ in range(count):
            entry = None if entry is None else entry.before
        return entry


class PrefixCache:
    """Cached pages by digest; those in nobody's table wait to be used again or evicted.

    It holds at most one entry per page of the pool, so it is bounded by the pool.
    """

    def __init__(self, policy: EvictionPolicy, hasher: PageHash = hash_page):
        self._policy, self.hash = policy, hasher
        self._by_digest: dict[bytes, CachedPage] = {}
        self._by_page: dict[int, CachedPage] = {}
        self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._by_page)

    def __contains__(self, page: int) -> bool:
        return page in self._by_page

    @property
    def num_idle(self) -> int:
        """Cached pages that can be evicted now."""
        return len(self._policy)

    def match(
        self, digests: Sequence[bytes], pages: Sequence[tuple[int, ...]], salt: str
    ) -> list[CachedPage]:
        """The longest run of leading pages that is cached: same tokens, same salt."""
        found: list[CachedPage] = []
        before: CachedPage | None = None
        for digest, tokens in zip(digests, pages, strict=True):
            entry = self._by_digest.get(digest)
            if entry is None or not entry.holds(tokens, before, salt):
                break
            found.append(entry)
            before = entry
        return found

    def insert(
        self,
        page: int,
        digest: bytes,
        tokens: tuple[int, ...],
        before: CachedPage | None,
        salt: str,
    ) -> CachedPage | None:
        """Note a page's content.

        Returns:
            The entry of that content, which may be another page's; None where it cannot be
            found again: other content has its digest, the page before it was evicted, or the
            page is known under another salt (it was shared by a fork), and one entry is enough.
        """
        entry = self._by_digest.get(digest)
        if entry is not None:
            return entry if entry.holds(tokens, before, salt) else None
        if page in self._by_page:
            return None
        if before is not None and self._by_page.get(before.page) is not before:
            return None
        entry = CachedPage(page, digest, tokens, before, salt)
        self._by_digest[digest] = entry
        self._by_page[page] = entry
        if before is not None:
            before.after.add(entry)
        return entry

    def add_idle(self, page: int) -> None:
        """The page left its last table; it may be evicted."""
        self._policy.add(page)

    def remove_idle(self, page: int) -> None:
        """The page is in a table again."""
        self._policy.remove(page)

    def evict(self) -> list[int]:
        """Forget one idle page, and all pages that follow it: without it nobody can find them.

        Returns the pages that were forgotten, some of which may be in a table still.
        """
        page = self._policy.victim()
        if page is None:
            return []
        first = self._by_page[page]
        if first.before is not None:
            first.before.after.discard(first)
        forgotten, pending = [], [first]
        while pending:
            entry = pending.pop()
            pending += entry.after
            self._forget(entry)
            forgotten.append(entry.page)
        self.num_evicted += len(forgotten)
        return forgotten

    def clear(self) -> list[int]:
        """Forget everything; returns the pages."""
        pages = list(self._by_page)
        for entry in list(self._by_page.values()):
            self._forget(entry)
        return pages

    def _forget(self, entry: CachedPage) -> None:
        self._policy.forget(entry.page)
        del self._by_page[entry.page], self._by_digest[entry.digest]
