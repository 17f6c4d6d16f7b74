"""The names of variants, and grids: variants named by where they stand on axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ferrum_jax.types import RequestError

Label = str | int | float | bool | None
Key = tuple[Label, ...]
BASELINE: Key = ("baseline",)


class Grid(Mapping[Key, Any]):
    """Variants by the values of named axes, in the order of their product; see `grid`."""

    def __init__(self, axes: Mapping[str, Key], variants: Mapping[Key, Any]):
        self.axes = dict(axes)
        self._variants = dict(variants)

    def __getitem__(self, key: Key) -> Any:
        return self._variants[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._variants)

    def __len__(self) -> int:
        return len(self._variants)

    def __repr__(self) -> str:
        sizes = " x ".join(f"{len(values)} {name}" for name, values in self.axes.items())
        return f"Grid({sizes})"


def grid(make: Callable[..., Any], **axes: Iterable[Label]) -> Grid:
    """A variant for every combination of axis values, keyed by them.

        fj.grid(
            lambda layer, head: fj.edits.ablate_heads([(layer, head)]),
            layer=range(6), head=range(8),
        )

    Two axes make a table and a heat map: the first is its rows, the second its columns.

    Args:
        make: called with the axes by name; gives anything that `sweep` takes as a variant.
        axes: names, numbers or texts along each.

    Raises:
        RequestError: no axis, an empty one, one that repeats a value, or a value that is no label.
    """
    if not axes:
        raise RequestError("a grid needs at least one axis, as in layer=range(6)")
    labels = {name: _labels(name, values) for name, values in axes.items()}
    variants = {
        key: make(**dict(zip(labels, key, strict=True)))
        for key in itertools.product(*labels.values())
    }
    return Grid(labels, variants)


def key_text(key: Key, axes: Iterable[str] = ()) -> str:
    """`layer 3, head 5`, or the name alone."""
    names = list(axes)
    if len(names) != len(key) or key == BASELINE:
        return ", ".join(map(str, key))
    return ", ".join(f"{name} {value}" for name, value in zip(names, key, strict=True))


def as_key(name: Any) -> Key:
    """A name as a tuple of plain labels.

    Raises:
        RequestError: a part is no label.
    """
    parts = name if isinstance(name, tuple) else (name,)
    plain = tuple(part.item() if isinstance(part, np.generic) else part for part in parts)
    for part in plain:
        if part is not None and not isinstance(part, str | int | float | bool):
            raise RequestError(
                f"{part!r} ({type(part).__name__}) names a variant; a name is a text, a number or "
                "a tuple of these"
            )
    return plain


def _labels(name: str, values: Iterable[Label]) -> Key:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise RequestError(f"axis {name} is {values!r}; give a list or a range of labels")
    labels = as_key(tuple(values))
    if not labels:
        raise RequestError(f"axis {name} is empty; give it at least one value")
    if len(set(map(str, labels))) < len(labels):
        raise RequestError(f"axis {name} repeats a value: {', '.join(map(str, labels))}")
    return labels
