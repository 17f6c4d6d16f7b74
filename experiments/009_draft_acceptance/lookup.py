"""Prompt lookup: the draft is what followed the same n-gram before (Saxena 2023)."""

import numpy as np


def lookup_survivals(tokens: list[int], start: int, ngram: int, longest: int) -> np.ndarray:
    """`[starts, K]`: whether so many tokens in a row are those that the lookup proposes.

    A proposal ends where the known text ends; without one nothing is accepted. A proposed token is
    certain (q = 1), so the chance that it is accepted along a sampled text is whether it is there.
    """
    starts = range(start, len(tokens) - longest + 1)
    found = np.zeros((len(starts), longest))
    for row, place in enumerate(starts):
        proposed = propose(tokens[:place], ngram, longest)
        actual = tokens[place : place + len(proposed)]
        hits = np.asarray(proposed) == np.asarray(actual)
        found[row, : len(hits)] = np.cumprod(hits)
    return found


def propose(context: list[int], ngram: int, longest: int) -> list[int]:
    """What followed the last occurrence of the context's end, the longest n-gram first."""
    for size in range(min(ngram, len(context) - 1), 0, -1):
        ending = context[-size:]
        for place in range(len(context) - size - 1, -1, -1):
            if context[place : place + size] == ending:
                return context[place + size : place + size + longest]
    return []
