"""What an edit does to an activation."""

from __future__ import annotations

from typing import Any, Protocol

from jaxtyping import Array

from ferrum_jax.types import Place


class EditOperation(Protocol):
    """A change of an activation, token by token. Frozen, hashable and compared by value.

    One that has `reads_entered = True` is given the stream that entered the layer in place of the
    activation.
    """

    def __call__(self, x: Array, values: Any, place: Place, layer: int) -> Array:
        """The changed activation `[T, ...]`, of the same shape.

        Where the edit does not act (its layers and positions) the result is dropped. `values` are
        the edit's arrays `[rows, ...]`; `place.rows` says which row is whose.
        """
        ...

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: Any) -> None:
        """Raise `RequestError` unless the values fit a token's activation of that shape.

        An axis without a fixed size (the keys of `pattern`) is -1.
        """
        ...
