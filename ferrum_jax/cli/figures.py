"""Numbers of a model as the command's tables show them."""

from __future__ import annotations

import math

from ferrum_jax.models.shapes import flatten_shapes
from ferrum_jax.types import ModelConfig


def num_parameters(config: ModelConfig) -> int:
    """Parameters that a config asks for."""
    return sum(math.prod(shape) for shape in flatten_shapes(config).values())
