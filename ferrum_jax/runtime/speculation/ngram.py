"""Drafts from the sequence itself: what followed its last tokens where they stood before.

Prompt lookup (Saxena 2023, `prompt-lookup-decoding`), which pays where a text repeats its prompt:
summaries, edits of code, answers that quote.
"""

from __future__ import annotations

from collections.abc import Sequence


class NgramProposer:
    """A `Proposer` over an index of the sequence's n-grams, which grows with it.

    The longest n-gram that stood before decides, and of several places the newest.
    """

    def __init__(self, shortest: int, longest: int):
        self._sizes = range(longest, shortest - 1, -1)
        self._ends: dict[tuple[int, ...], int] = {}
        self._num_indexed = 0

    def propose(self, token_ids: Sequence[int], count: int) -> Sequence[int]:
        self._index(token_ids)
        for size in self._sizes:
            last = tuple(token_ids[-size:])
            end = self._ends.get(last, 0)
            # What was indexed before a rewind may not stand there any more.
            if end < len(token_ids) and tuple(token_ids[max(0, end - size) : end]) == last:
                return token_ids[end : end + count]
        return ()

    def _index(self, token_ids: Sequence[int]) -> None:
        """Enter the n-grams that end before the last token: the last ones are looked up."""
        for end in range(min(self._num_indexed, len(token_ids)), len(token_ids)):
            for size in self._sizes:
                if size <= end:
                    self._ends[tuple(token_ids[end - size : end])] = end
        self._num_indexed = len(token_ids)
