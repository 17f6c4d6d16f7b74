"""From what callers give to the arrays of an edit, each with a leading row for its request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from ferrum_jax.research.edits.spans import (
    Layers,
    Positions,
    integer,
    layer_spans,
    padded_size,
    position_spans,
)
from ferrum_jax.types import SITES, Edit, RequestError, Taps


def make_taps(
    site: str, operation: Any, values: Any, *, layers: Layers = None, positions: Positions = None
) -> Taps:
    """One edit at one site.

    Raises:
        RequestError: there is no such site, or layers or positions are none.
    """
    if site not in SITES:
        raise RequestError(f"{site!r} is not a site; the sites are {', '.join(SITES)}")
    edit = Edit(
        operation=operation,
        values=values,
        layers=layer_spans(layers)[None],
        positions=position_spans(positions)[None],
    )
    return Taps(edits={site: (edit,)})


def as_row(name: str, value: Any, dtype: Any = np.float32) -> Any:
    """An array with a leading axis of one row. jax arrays stay as they are: gradients flow.

    Raises:
        RequestError: it is no array of numbers, or not finite.
    """
    if isinstance(value, jax.Array):
        return value[None]
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex numbers")
        array = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"{name} is {value!r}; give an array of numbers") from error
    if not np.all(np.isfinite(array)):
        raise RequestError(f"{name} holds a nan or an infinity; give finite numbers")
    return array[None]


def unit_pairs(kind: str, units: Iterable[tuple[int, int]]) -> np.ndarray:
    """int32 `[n, 2]` of (layer, unit), in the caller's order.

    Raises:
        RequestError: none, one twice, or one that is no pair of natural numbers.
    """
    if not isinstance(units, Iterable):
        raise RequestError(f"{units!r} is no list of (layer, {kind}) pairs")
    listed = [tuple(pair) if isinstance(pair, list | np.ndarray) else pair for pair in units]
    if not listed:
        raise RequestError(f"no {kind} is named; give a list of (layer, {kind}) pairs")
    for pair in listed:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise RequestError(f"{pair!r} is no (layer, {kind}) pair of natural numbers")
        if min(integer(f"a (layer, {kind}) pair", number) for number in pair) < 0:
            raise RequestError(f"{pair!r} is no (layer, {kind}) pair of natural numbers")
    if len(set(listed)) < len(listed):
        raise RequestError(f"a {kind} is named twice in {listed}; name each once")
    return np.asarray(listed, np.int32)


def pad_rows(array: Any, value: float = 0) -> Any:
    """The first axis padded to a power of two, so that other counts share a program."""
    missing = padded_size(array.shape[0]) - array.shape[0]
    if not missing:
        return array
    library = jax.numpy if isinstance(array, jax.Array) else np
    return library.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)), constant_values=value)
