"""Who runs next, and on which pages. Pure Python: ids, lengths and block tables only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ferrum_jax.types import BlockTable, Schedule, Sequence


class BlockManager(Protocol):
    """Owns the page pool; every page is free or owned, shared pages are ref-counted."""

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        ...

    @property
    def num_free(self) -> int: ...

    @property
    def num_total(self) -> int:
        """Pages that sequences can own: the pool without its trash page."""
        ...

    def pages_for(self, num_tokens: int) -> int:
        """Pages that so many tokens fill."""
        ...

    def can_grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether the table can be grown to hold so many tokens with the pages free now."""
        ...

    def grow(self, table: BlockTable, num_tokens: int) -> None:
        """Append pages until the table holds so many tokens; `ResourceExhausted` if it cannot."""
        ...

    def fork(self, table: BlockTable) -> BlockTable:
        """A second table that shares every page."""
        ...

    def release(self, table: BlockTable) -> None:
        """Give up the table's hold on its pages, and empty it."""
        ...


class EvictionPolicy(Protocol):
    """Which cached page that no sequence uses is given up first."""

    def touch(self, page: int) -> None:
        """Note that a page was used."""
        ...

    def remove(self, page: int) -> None:
        """Forget a page."""
        ...

    def victim(self) -> int | None:
        """The page to give up next; None when there is none."""
        ...


class SchedulingPolicy(Protocol):
    """The order in which waiting sequences are admitted and running ones give way."""

    def order(self, waiting: Iterable[Sequence]) -> list[Sequence]:
        """Waiting sequences, the next to be admitted first."""
        ...

    def victim(self, running: Iterable[Sequence]) -> Sequence | None:
        """The running sequence to preempt when pages run out."""
        ...


class Scheduler(Protocol):
    """Forms each step from the waiting and the running sequences."""

    def add(self, sequence: Sequence) -> None: ...

    def schedule(self) -> Schedule:
        """The next step's chunks; empty when nothing can run."""
        ...

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, whatever its state, and free its pages and slot; idempotent."""
        ...

    @property
    def has_work(self) -> bool: ...
