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
        self._numbers: dict[Sequence, int] = {}
        self._next = count()

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._numbers

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._numbers)

    def push(self, sequence: Sequence) -> None:
        """Let a sequence wait, in its place by the rank that it has now."""
        sequence.queued = self._numbers[sequence] = number = next(self._next)
        line = self._lines.setdefault(self._policy.group(sequence), [])
        heapq.heappush(line, (self._policy.rank(sequence), number, sequence))

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands; one that does not wait is left alone."""
        if self._numbers.pop(sequence, None) is None:
            return
        group = self._policy.group(sequence)
        line = self._lines[group]
        if len(line) > 2 * len(self._numbers) + 16:
            line[:] = [entry for entry in line if self._waits(entry)]
            heapq.heapify(line)
        if not line or not self._numbers:
            del self._lines[group]

    def first(self) -> Sequence | None:
        """Whose turn it is; None when nobody waits."""
        heads = []
        for group in list(self._lines):
            line = self._lines[group]
            while line and not self._waits(line[0]):
                heapq.heappop(line)
            if line:
                heads.append((self._policy.group_rank(group), line[0][:2], line[0][2]))
            else:
                del self._lines[group]
        return min(heads, key=lambda head: head[:2])[2] if heads else None

    def _waits(self, entry: Entry) -> bool:
        return self._numbers.get(entry[2]) == entry[1]
