"""What every dequantised checkpoint has of a `WeightSource`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.weights.files import unknown_tensor
from ferrum_jax.types import WeightError

STRIP = 64
"""Rows at a time, so that what is made on the way stays in cache."""


class Dequantized:
    """A subclass says which tensors are made, and how; the others are as they are stored."""

    def __init__(self, source: WeightSource, made: Mapping[str, str], hidden: set[str]) -> None:
        """Args:
        made: the name of each tensor that is made, by that of the stored one whose place it takes.
        hidden: stored tensors that are parts of others, or go unused.
        """
        self._source, self._made_at = source, made
        self._made = set(made.values())
        self._hidden = (hidden | made.keys()) - self._made
        self._last: tuple[str, Any] = ("", None)
        self.location = source.location
        self.nbytes = source.nbytes
        self.max_file_bytes = source.max_file_bytes

    def names(self) -> tuple[str, ...]:
        return tuple(
            self._made_at.get(name, name)
            for name in self._source.names()
            if name in self._made_at or name not in self._hidden
        )

    def shape(self, name: str) -> tuple[int, ...]:
        return self._made_shape(name) if name in self._made else self._plain("shape", name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32) if name in self._made else self._plain("dtype", name)

    def read(self, name: str) -> NDArray[Any]:
        """The last one that was made is kept until another is: some hold several projections."""
        if name not in self._made:
            return self._plain("read", name)
        if name != self._last[0]:
            self._last = ("", None)
            self._last = (name, self._make(name))
        return self._last[1]

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _plain(self, method: str, name: str) -> Any:
        if name in self._hidden:
            raise unknown_tensor(self.location, name, self.names())
        return getattr(self._source, method)(name)

    def _made_shape(self, name: str) -> tuple[int, ...]:
        raise NotImplementedError

    def _make(self, name: str) -> NDArray[Any]:
        raise NotImplementedError

    def _misfit(self, *names: str, says: str) -> WeightError:
        """Tensors of shapes that do not belong together."""
        shapes = (f"{name} is {self._source.shape(name)}" for name in names)
        return WeightError(
            f"{self.location}: {', '.join(shapes)}, which is not {says}; check that the weights "
            "and config.json belong together"
        )


def in_strips(
    shape: tuple[int, int], make: Callable[[slice], np.ndarray], rows: int = STRIP
) -> NDArray[np.float32]:
    """`[rows, columns]`, made by slices of its rows."""
    result = np.empty(shape, np.float32)
    for start in range(0, shape[0], rows):
        strip = slice(start, start + rows)
        result[strip] = make(strip)
    return result
