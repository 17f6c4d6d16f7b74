"""The tokens that every engine is given."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def prompts(plan: dict[str, Any], count: int, length: int) -> list[list[int]]:
    """Random prompts; the same for everybody."""
    rng = np.random.default_rng([plan["seed"], length])
    return rng.integers(3, plan["vocab"], (count, length)).tolist()


def rate(tokens: int, seconds: Sequence[float]) -> float:
    """Tokens per second of the median step."""
    return tokens / float(np.median(seconds))
