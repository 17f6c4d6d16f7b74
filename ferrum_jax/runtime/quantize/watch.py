"""Matrices that note what they are multiplied with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import struct

from ferrum_jax.models.quantized import QuantizedMatrix


@dataclass
class Watch:
    """`x^T x` by parameter, over all tokens of all texts that ran."""

    num_tokens: int = 0
    """Of the text that runs; behind them is padding."""
    grams: dict[str, np.ndarray] = field(default_factory=dict)
    """float64 [inputs, inputs]"""

    def note(self, name: str, x: np.ndarray) -> None:
        """A matrix was given rows `[T, inputs]`."""
        rows = x[: self.num_tokens].astype(np.float32)
        gram = self.grams.setdefault(name, np.zeros((x.shape[1],) * 2))
        gram += rows.T @ rows


@struct.dataclass
class WatchedMatrix(QuantizedMatrix):
    """An array, `values` [inputs, outputs], in the place of a rounded one: outside of `jax.jit`."""

    name: str = struct.field(pytree_node=False, default="")
    watch: Any = struct.field(pytree_node=False, default=None)

    def __rmatmul__(self, x: jax.Array) -> jax.Array:
        self.watch.note(self.name, np.asarray(x))
        return x @ self.values
