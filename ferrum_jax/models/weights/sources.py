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

    def stored_shape(self, shape: tuple[int, ...], index: int) -> tuple[int, ...]:
        """The shape of tensor number `index` of a parameter of this shape; biases are flat."""
        return shape if self.name.endswith("embed_tokens.weight") else (math.prod(shape),)

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        """Write tensor number `index` into the parameter, cast to its dtype."""
        out.reshape(stored.shape)[...] = stored

    def stored(self, value: np.ndarray, index: int) -> np.ndarray:
        """Tensor number `index` of a parameter, as the checkpoint stores it."""
        return value.reshape(self.stored_shape(value.shape, index))


@dataclass(frozen=True)
class Linear:
    """A projection: stored `[out, in]`, held `[in..., out...]` with `inputs` input axes."""

    name: str
    inputs: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def stored_shape(self, shape: tuple[int, ...], index: int) -> tuple[int, ...]:
        return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        _transpose_into(out.reshape(stored.shape[::-1]), stored)

    def stored(self, value: np.ndarray, index: int) -> np.ndarray:
        return np.ascontiguousarray(value.reshape(self.stored_shape(value.shape, index)[::-1]).T)


@dataclass(frozen=True)
class Stacked:
    """One projection per expert: stored apart as `[out, in]`, held together as `[E, in, out]`."""

    names: tuple[str, ...]

    def stored_shape(self, shape: tuple[int, ...], index: int) -> tuple[int, ...]:
        return shape[2], shape[1]

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        _transpose_into(out[index], stored)

    def stored(self, value: np.ndarray, index: int) -> np.ndarray:
        return np.ascontiguousarray(value[index].T)


@dataclass(frozen=True)
class Heads:
    """The q, k and v projections (or their biases): stored apart, held as `[..., K, G + 2, H]`."""

    names: tuple[str, str, str]

    def stored_shape(self, shape: tuple[int, ...], index: int) -> tuple[int, ...]:
        *width, kv_heads, joined, head = shape
        return (kv_heads * (joined - 2 if index == 0 else 1) * head, *width)

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        part = _part(out, index)
        by_head = stored.reshape(part.shape[-3], -1, *stored.shape[1:])
        for kv_head, rows in enumerate(by_head):
            strip = np.empty((*out.shape[:-3], rows.shape[0]), out.dtype)
            _transpose_into(strip, rows)
            part[..., kv_head, :, :] = strip.reshape(part[..., kv_head, :, :].shape)

    def stored(self, value: np.ndarray, index: int) -> np.ndarray:
        part = _part(value, index)
        flat = part.reshape(*part.shape[:-3], -1)
        return np.ascontiguousarray(flat.T)


@dataclass(frozen=True)
class SideBySide:
    """Projections of one input (or their biases): stored apart, held as `[..., U, F]`."""

    names: tuple[str, ...]

    def stored_shape(self, shape: tuple[int, ...], index: int) -> tuple[int, ...]:
        return (shape[-1], *shape[:-2])

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        _transpose_into(out[..., index, :], stored)

    def stored(self, value: np.ndarray, index: int) -> np.ndarray:
        return np.ascontiguousarray(value[..., index, :].T)


Source = Plain | Linear | Stacked | Heads | SideBySide


def _part(joined: np.ndarray, index: int) -> np.ndarray:
    """The queries (0), keys (1) or values (2) of a joined projection."""
    return joined[..., (slice(None, -2), slice(-2, -1), slice(-1, None))[index], :]


def _transpose_into(out: np.ndarray, stored: np.ndarray, rows: int = 64) -> None:
    """`out[...] = stored.T`, cast on the way; in strips, so that both sides stay in cache."""
    if stored.ndim == 1:
        out[...] = stored
        return
    for start in range(0, stored.shape[0], rows):
        out[:, start : start + rows] = stored[start : start + rows].T
