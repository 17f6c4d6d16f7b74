"""The tokens that every engine is given, and what of its runs is reported."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def prompts(plan: dict[str, Any], count: int, length: int) -> list[list[int]]:
    """Random prompts; the same for everybody."""
    rng = np.random.default_rng([plan["seed"], length])
    return rng.integers(3, plan["vocab"], (count, length)).tolist()


def rate(tokens: int, seconds: Sequence[float]) -> float:
    """Tokens per second of the median step."""
    return tokens / float(np.median(seconds))


def measured(
    plan: dict[str, Any],
    prefill: Callable[[list[int]], float],
    decode: Callable[[int], tuple[float, list[int]]],
) -> dict[str, Any]:
    """Rates of prefill and decode, and the first sequence's tokens.

    Args:
        prefill: seconds from a prompt to its next token; the first of four calls is dropped.
        decode: of a number of sequences, tokens per second and the first one's tokens.
    """
    (long,) = prompts(plan, 1, plan["prefill"])
    seconds = [prefill(long) for _ in range(4)]
    found: dict[str, Any] = {"prefill": rate(plan["prefill"], seconds[1:]), "decode": {}}
    for batch in plan["batches"]:
        found["decode"][batch], found["tokens"] = decode(batch)
    return found
