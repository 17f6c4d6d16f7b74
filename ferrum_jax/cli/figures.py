"""Numbers of a model as the command's tables show them."""

from __future__ import annotations

import math

from ferrum_jax.models.shapes import flatten_shapes
from ferrum_jax.types import ModelConfig


def num_parameters(config: ModelConfig) -> int:
    """Parameters that a config asks for."""
    return sum(math.prod(shape) for shape in flatten_shapes(config).values())


def bytes_text(count: float) -> str:
    """`438.1 MB`, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
