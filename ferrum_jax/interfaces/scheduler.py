"""Who runs next, and on which pages. Pure Python: ids, lengths and block tables only."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from typing import Protocol

from ferrum_jax.types import BlockTable, Schedule, ScheduledChunk, Sequence


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

    @property
    def caches_prefixes(self) -> bool:
        """Whether full pages are kept by their content."""
        ...

    def can_write(self, table: BlockTable, start: int, end: int) -> bool:
        """Whether the pages free now suffice to write tokens `[start, end)`."""
        ...

    def prepare(self, table: BlockTable, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """Give the table pages of its own for tokens `[start, end)`; `ResourceExhausted` if it
        cannot. Returns the copies `(from, to)` that must be made before the step writes."""
        ...

    def fork(self, table: BlockTable, num_tokens: int) -> BlockTable:
        """A second table over the pages of the first `num_tokens` tokens."""
        ...

    def truncate(self, table: BlockTable, num_tokens: int) -> None:
        """Give up the pages behind the first `num_tokens` tokens."""
        ...

    def release(self, table: BlockTable) -> None:
        """Give up the table's hold on its pages, and empty it."""
        ...

    def take_prefix(self, table: BlockTable, tokens: Tokens[int], salt: str, limit: int) -> int:
        """Let an empty table share cached pages of its tokens' beginning; how many tokens."""
        ...

    def count_lookup(self, queried: int, hits: int) -> None:
        """Add a sequence's start to the hit statistics, in tokens."""
        ...

    def cache_full_pages(
        self, table: BlockTable, tokens: Tokens[int], num_tokens: int, salt: str
    ) -> None:
        """Offer the pages that the first `num_tokens` tokens fill to whoever comes."""
        ...

    def clear_prefixes(self) -> None:
        """Forget all cached content; pages that sequences hold stay theirs."""
        ...

    def swap_out(self, table: BlockTable, num_tokens: int) -> tuple[int, ...] | None:
        """Give up the table's pages for room in host memory; None where there is none."""
        ...

    def swap_in(self, num_tokens: int) -> None:
        """Give back the room of a swapped sequence of so many tokens."""
        ...


class EvictionPolicy(Protocol):
    """Which cached page that no sequence uses is given up first."""

    def __len__(self) -> int:
        """Pages that may be evicted now."""
        ...

    def add(self, page: int) -> None:
        """The page is in nobody's table any more."""
        ...

    def remove(self, page: int) -> None:
        """The page is used again."""
        ...

    def forget(self, page: int) -> None:
        """The page is cached no more; one that is not known is left alone."""
        ...

    def victim(self) -> int | None:
        """The page to give up next; None when there is none."""
        ...


class SchedulingPolicy(Protocol):
    """Who is served first. The scheduler keeps the queue; a policy only compares."""

    takes_turns: bool
    """Whether a running sequence may have to give way although there are pages."""

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        """The lowest is admitted first, the highest gives way first. While a sequence waits its
        rank must not change."""
        ...

    def group(self, sequence: Sequence) -> str:
        """Sequences of one group wait in one line, by rank."""
        ...

    def group_rank(self, group: str) -> float:
        """Of several lines, the one with the lowest goes on first; may change at any time."""
        ...

    def join(self, sequence: Sequence) -> None:
        """A sequence has come to a group that had none waiting."""
        ...

    def admit(self, sequence: Sequence) -> None:
        """A waiting sequence is going to start."""
        ...

    def serve(self, chunks: Iterable[ScheduledChunk]) -> None:
        """The chunks are going to run."""
        ...

    def has_had_its_turn(self, sequence: Sequence) -> bool:
        """Whether a running sequence gives its slot to one that waits for a slot or pages."""
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
