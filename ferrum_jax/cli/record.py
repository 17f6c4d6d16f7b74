"""What the JSON answers of the command carry, and numbers as its tables show them."""

from __future__ import annotations

import math
from typing import Any

from ferrum_jax.models.params import flatten_shapes
from ferrum_jax.runtime import record
from ferrum_jax.types import ModelConfig

VERSIONS = ("ferrum_jax", "jax", "jaxlib", "python")


def environment() -> dict[str, Any]:
    """`runtime.record.environment`, with those versions that one line has room for."""
    found = record.environment()
    return {**found, "versions": {name: found["versions"][name] for name in VERSIONS}}


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
