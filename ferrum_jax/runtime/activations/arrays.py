"""What callers hand over for a prompt, checked and made into arrays that can be stored."""

from __future__ import annotations

from typing import Any

import numpy as np

from ferrum_jax.runtime.activations.index import DTYPES, INT32, StoredSite
from ferrum_jax.runtime.taps.capture import Values
from ferrum_jax.types import RequestError

Key = tuple[str, int]
"""A site and a layer."""


def integers(name: str, values: Any) -> np.ndarray:
    """int32 `[n]` of integers from 0 up, copied.

    Raises:
        RequestError: they are something else.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise RequestError(f"{name} is no list of integers; give one number each") from error
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, INT32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise RequestError(
            f"{name} is {array.dtype} of shape {array.shape}; give a list of integers"
        )
    if array.min() < 0 or array.max() > np.iinfo(INT32).max:
        raise RequestError(
            f"{name} holds {array.min()} to {array.max()}; give integers from 0 to 2147483647"
        )
    return array.astype(INT32)


def positions_of(what: str, positions: Any, count: int) -> np.ndarray:
    """int32 `[n]` of positions in a prompt of `count` tokens.

    Raises:
        RequestError: a position is none of the prompt's.
    """
    array = integers(f"{what}: positions", positions)
    if array.size and array.max() >= count:
        raise RequestError(
            f"{what}: position {array.max()} is none of its {count} token ids; "
            "give the ids of the whole prompt"
        )
    return array


def checked_values(
    what: str,
    values: Values,
    rows: int,
    sites: tuple[str, ...],
    layers: tuple[int, ...],
    dtype: str | None,
) -> tuple[dict[str, StoredSite], dict[Key, np.ndarray]]:
    """How each site is to be stored, and the arrays by site and layer: copied, and cast.

    Raises:
        RequestError: other sites than the writer's, a layer that is none of its, another number of
            rows than positions, a dtype that cannot be stored, or a number beyond the dtype's.
    """
    if set(values) != set(sites):
        raise RequestError(
            f"{what} brings {', '.join(map(str, values)) or 'nothing'}; this folder is for "
            f"{', '.join(sites)}: bring all of them, and no others"
        )
    arrays: dict[str, StoredSite] = {}
    given: dict[Key, np.ndarray] = {}
    for site in sites:
        held = tuple(sorted(values[site]))
        unknown = [layer for layer in held if layer not in layers]
        if unknown or not held:
            raise RequestError(
                f"{what}: {site} is of layers {held}; this folder is for {layers}: bring at least "
                "one of them, and no others"
            )
        for layer in held:
            name = f"{what}: {site} of layer {layer}"
            given[site, layer] = _stored(name, values[site][layer], rows, dtype)
        kinds = {given[site, layer].dtype.name for layer in held}
        if len(kinds) > 1:
            raise RequestError(
                f"{what}: {site} is {' and '.join(sorted(kinds))} by layer; name a dtype for all"
            )
        arrays[site] = StoredSite(kinds.pop(), tuple(map(int, held)))
    return arrays, given


def _stored(name: str, values: Any, rows: int, dtype: str | None) -> np.ndarray:
    """A copy as it is stored: contiguous, of a known dtype, of a row per position."""
    array = np.asarray(values)
    if array.shape[:1] != (rows,):
        raise RequestError(
            f"{name} has shape {array.shape} for {rows} positions; give a row for each"
        )
    if dtype is None and array.dtype.name not in DTYPES:
        raise RequestError(
            f"{name} is {array.dtype}, which is not stored; choose a dtype to cast to: "
            f"{', '.join(DTYPES)}"
        )
    wanted = DTYPES[array.dtype.name if dtype is None else dtype]
    try:
        with np.errstate(over="ignore"):
            stored = np.array(array, wanted, order="C")
    except (TypeError, ValueError) as error:
        raise RequestError(f"{name} is no array of numbers ({array.dtype})") from error
    if wanted != array.dtype:
        _check_range(name, array, stored)
    return stored


def _check_range(name: str, array: np.ndarray, stored: np.ndarray) -> None:
    """A cast must not make an infinity of a number: the corpus would be lost on it in silence."""
    infinite = np.isinf(stored)
    if infinite.any() and not np.isinf(array[infinite]).all():
        beyond = array[infinite]
        largest = np.abs(beyond[np.isfinite(beyond)]).max()
        raise RequestError(
            f"{name} holds {largest:g} in size, beyond {stored.dtype}; choose float32"
            + (" or bfloat16" if stored.dtype == DTYPES["float16"] else "")
        )
