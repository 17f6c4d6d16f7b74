"""Those that wait, in the order of a policy: a heap per group."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count

from ferrum_jax.interfaces import SchedulingPolicy
from ferrum_jax.types import Sequence

Entry = tuple[tuple[float, ...], int, Sequence]


class WaitingQueue:
    """Sequences by group and rank; push, remove and the first of each line in O(log n).

    What was removed from the middle stays in its heap until it comes to the top, or until most of
    the heap is such.
    """

    def __init__(self, policy: SchedulingPolicy):
        self._policy = policy
        self._lines: dict[str, list[Entry]] = {}
        self._sizes: dict[str, int] = {}
        self._numbers: dict[Sequence, int] = {}
        self._next = count()

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._numbers

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._numbers)

    def has_line(self, group: str) -> bool:
        """Whether anybody of a group waits."""
        return group in self._lines

    def push(self, sequence: Sequence) -> None:
        """Let a sequence wait, in its place by the rank that it has now."""
        sequence.queued = next(self._next)
        self._put(sequence)

    def update(self, sequence: Sequence) -> None:
        """Put a sequence where its rank now says; one that does not wait is left alone."""
        if sequence in self._numbers:
            self.remove(sequence)
            self._put(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands; one that does not wait is left alone."""
        if self._numbers.pop(sequence, None) is None:
            return
        group = self._policy.group(sequence)
        line, size = self._lines[group], self._sizes[group] - 1
        self._sizes[group] = size
        if not size:
            del self._lines[group], self._sizes[group]
        elif len(line) > 2 * size + 16:
            line[:] = [entry for entry in line if self._waits(entry)]
            heapq.heapify(line)

    def first(self) -> Sequence | None:
        """Whose turn it is; None when nobody waits."""
        heads = []
        for group, line in self._lines.items():
            while not self._waits(line[0]):
                heapq.heappop(line)
            heads.append((self._policy.group_rank(group), line[0][:2], line[0][2]))
        return min(heads, key=lambda head: head[:2])[2] if heads else None

    def _put(self, sequence: Sequence) -> None:
        self._numbers[sequence] = number = next(self._next)
        group = self._policy.group(sequence)
        line = self._lines.setdefault(group, [])
        heapq.heappush(line, (self._policy.rank(sequence), number, sequence))
        self._sizes[group] = self._sizes.get(group, 0) + 1

    def _waits(self, entry: Entry) -> bool:
        return self._numbers.get(entry[2]) == entry[1]
