"""How one parameter is made from the tensors of a checkpoint, and turned back into them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plain:
    """A tensor as it stands, reshaped to the parameter's shape."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the checkpoint of a parameter of this shape; biases are stored flat."""
        return shape if self.name.endswith("embed_tokens.weight") else (math.prod(shape),)

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        """Write tensor number `index` into the parameter, cast to its dtype."""
        out.reshape(stored.shape)[...] = stored

    def stored(self, value: np.ndarray, index: int) -> np.ndarray:
        """Tensor number `index` of a parameter, as the checkpoint stores it."""
        return value.reshape(self.stored_shape(value.shape))


@dataclass(frozen=True)
class Linear:
    """A projection: stored `[out, in]`, held `[in..., out...]` with `inputs` input axes."""

    name: str
    inputs: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        _transpose_into(out.reshape(stored.shape[::-1]), stored)

    def stored(self, value: np.ndarray, index: int) -> np.ndarray:
        return np.ascontiguousarray(value.reshape(self.stored_shape(value.shape)[::-1]).T)


@dataclass(frozen=True)
class Stacked:
    """One projection per expert: stored apart as `[out, in]`, held together as `[E, in, out]`."""

    names: tuple[str, ...]

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[2], shape[1]

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        _transpose_into(out[index], stored)

    def stored(self, value: np.ndarray, index: int) -> np.ndarray:
        return np.ascontiguousarray(value[index].T)


Source = Plain | Linear | Stacked


def _transpose_into(out: np.ndarray, stored: np.ndarray, rows: int = 64) -> None:
    """`out[...] = stored.T`, cast on the way; in strips, so that both sides stay in cache."""
    for start in range(0, stored.shape[0], rows):
        out[:, start : start + rows] = stored[start : start + rows].T
