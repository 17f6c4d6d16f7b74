"""How one parameter is made from the tensors of a checkpoint, and turned back into them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plain:
    """A tensor as it stands, reshaped to the parameter's shape."""

    name: str
    table: bool = False
    """Stored in the parameter's shape; otherwise flat, as biases and norms are."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def stored_shape(self, shape: tuple[int, ...], index: int) -> tuple[int, ...]:
        """The shape of tensor number `index` of a parameter of this shape; biases are flat."""
        return shape if self.table else (math.prod(shape),)

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


@dataclass(frozen=True)
class View:
    """A parameter out of a part of one tensor: cut, reshaped and transposed.

    `stored[cut].reshape(view).transpose(order)`, then the parameter's own shape. Fused projections
    of every layout are this, and so are tensors that are held as they are stored.
    """

    name: str
    shape: tuple[int, ...]
    """of the whole tensor"""
    cut: tuple[int, int, int, int] | None = None
    """(axis, start, stop, step); None: all of it"""
    view: tuple[int, ...] | None = None
    """None: as the part is"""
    order: tuple[int, ...] | None = None
    """axes of the view in the parameter's order; None: as they are"""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def stored_shape(self, shape: tuple[int, ...], index: int) -> tuple[int, ...]:
        return self.shape

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        part = stored[self._part]
        part = part.reshape(self.view or part.shape)
        out[...] = part.transpose(self.order or range(part.ndim)).reshape(out.shape)

    def put(self, full: np.ndarray, value: np.ndarray, index: int) -> None:
        """Write the parameter to its part of the tensor."""
        part = full[self._part]
        view = self.view or part.shape
        order = self.order or tuple(range(len(view)))
        moved = value.reshape([view[axis] for axis in order]).transpose(np.argsort(order))
        full[self._part] = moved.reshape(part.shape)

    @property
    def _part(self) -> tuple[slice, ...]:
        if self.cut is None:
            return ()
        axis, start, stop, step = self.cut
        return (*[slice(None)] * axis, slice(start, stop, step))


def depthwise(name: str, channels: int, size: int) -> View:
    """A depthwise convolution: stored `[C, 1, W]`, held `[W, C]`."""
    return View(name, (channels, 1, size), order=(2, 0, 1))


@dataclass(frozen=True)
class Joined:
    """A parameter whose slices along one axis come from sources of their own, in turn."""

    parts: tuple[Plain | Linear | View, ...]
    sizes: tuple[int, ...]
    axis: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.names[0] for part in self.parts)

    def stored_shape(self, shape: tuple[int, ...], index: int) -> tuple[int, ...]:
        axis = self.axis % len(shape)
        part = (*shape[:axis], self.sizes[index], *shape[axis + 1 :])
        return self.parts[index].stored_shape(part, 0)

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        part = np.empty(self._slice(out, index).shape, out.dtype)
        self.parts[index].fill(part, 0, stored)
        self._slice(out, index)[...] = part

    def put(self, full: np.ndarray, value: np.ndarray, index: int) -> None:
        """Write a slice of the parameter to its tensor."""
        put(self.parts[index], full, np.ascontiguousarray(self._slice(value, index)), 0)

    def _slice(self, x: np.ndarray, index: int) -> np.ndarray:
        start = sum(self.sizes[:index])
        axis = self.axis % x.ndim
        return x[(*[slice(None)] * axis, slice(start, start + self.sizes[index]))]


Source = Plain | Linear | Stacked | Heads | SideBySide | View | Joined


def put(entry: Source, full: np.ndarray, value: np.ndarray, index: int) -> None:
    """Write tensor number `index` of a parameter, or the part of it that the parameter is."""
    if isinstance(entry, View | Joined):
        entry.put(full, value, index)
    else:
        full[...] = entry.stored(value, index)


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
