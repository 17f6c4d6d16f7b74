"""Where an edit acts: layers and positions as callers name them, as spans of integers.

Spans are padded to a power of two with empty ones, so that edits at other places share a program.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferrum_jax.types import EVERYWHERE, RequestError

Span = tuple[int, int, int, int]
"""`(start, from_end, stop, from_end)`; see `Edit.positions`."""


@dataclass(frozen=True)
class Generated:
    """Positions of generated tokens, counted from the first one."""

    start: int = 0
    stop: int | None = None


Positions = None | str | int | slice | Generated | Iterable[int]
Layers = None | int | Iterable[int]


def generated(start: int = 0, stop: int | None = None) -> Generated:
    """The generated tokens `[start, stop)`; the first is 0. None: to the end.

    The first generated token is *predicted* at the prompt's last position (-1); an edit at
    `generated(0)` changes what is predicted after it.

    Raises:
        RequestError: a number is no integer, or negative.
    """
    first = integer("the start of generated", start)
    last = EVERYWHERE if stop is None else integer("the stop of generated", stop)
    if not 0 <= first < last:
        raise RequestError(
            f"generated({start}, {stop}) names no token; count from the first one, 0, to a stop "
            "behind it"
        )
    return Generated(first, None if stop is None else last)


def position_spans(positions: Positions) -> np.ndarray:
    """int32 `[B, 4]`: the spans of positions.

    Args:
        positions: None, all; "prompt" or "generated"; an index or several, negative ones counted
            from the prompt's end (-1 is its last token); a slice, likewise, and open-ended without
            a stop; or `generated(start, stop)`.

    Raises:
        RequestError: it is none of these.
    """
    if positions is None:
        spans: list[Span] = [(0, 0, EVERYWHERE, 0)]
    elif isinstance(positions, str):
        spans = [_named(positions)]
    elif isinstance(positions, Generated):
        stop = EVERYWHERE if positions.stop is None else positions.stop
        spans = [(positions.start, 1, stop, int(positions.stop is not None))]
    elif isinstance(positions, slice):
        spans = [_slice(positions)]
    else:
        spans = _runs(integers("positions", positions))
    return _padded(spans, 4)


def layer_spans(layers: Layers) -> np.ndarray:
    """int32 `[A, 2]`: the spans of layers; None: all.

    Raises:
        RequestError: a layer is no integer, or negative.
    """
    if layers is None:
        return np.asarray([[0, EVERYWHERE]], np.int32)
    return _padded([(start, stop) for start, _, stop, _ in _runs(layer_list(layers))], 2)


def layer_list(layers: int | Iterable[int]) -> list[int]:
    """Layers as a list; `RequestError` for what is no natural number."""
    listed = integers("layers", layers)
    for layer in listed:
        if layer < 0:
            raise RequestError(f"layer {layer} does not exist; layers count from 0")
    return listed


def position_list(positions: Positions, count: int) -> np.ndarray:
    """int32 `[count, 2]`: one `(position, from_end)` per item, for data that has one row each.

    None: the first `count` positions.

    Raises:
        RequestError: not so many positions, or no single ones.
    """
    if positions is None:
        listed = list(range(count))
    elif isinstance(positions, range | list | tuple | int | np.ndarray | np.integer):
        listed = integers("positions", positions)
    else:
        raise RequestError(
            f"positions is {positions!r}; data with a row per position takes a list of positions"
        )
    if len(listed) != count:
        raise RequestError(f"{len(listed)} positions for {count} rows of data; give one for each")
    if len(set(listed)) < count:
        raise RequestError(f"positions holds one twice: {listed}; name each once")
    return np.asarray([(p, int(p < 0)) for p in listed], np.int32).reshape(-1, 2)


def padded_size(count: int) -> int:
    """The power of two that so many items are padded to."""
    return 1 << max(0, count - 1).bit_length()


def _named(name: str) -> Span:
    if name == "prompt":
        return (0, 0, 0, 1)
    if name == "generated":
        return (0, 1, EVERYWHERE, 0)
    raise RequestError(f"positions is {name!r}; the names are 'prompt' and 'generated'")


def _slice(span: slice) -> Span:
    if span.step not in (None, 1):
        raise RequestError(f"positions is {span}; a slice takes no step, a list may be any")
    start = 0 if span.start is None else integer("positions", span.start)
    stop = EVERYWHERE if span.stop is None else integer("positions", span.stop)
    if (start < 0) == (stop < 0) and start >= stop:
        raise RequestError(f"positions is {span}, which names no token")
    return (start, int(start < 0), stop, int(stop < 0))


def _runs(values: list[int]) -> list[Span]:
    """Sorted values as spans of consecutive ones; negative ones count from the end."""
    spans: list[Span] = []
    for value in sorted(set(values)):
        end = int(value < 0)
        if spans and spans[-1][2] == value and spans[-1][3] == end:
            spans[-1] = (spans[-1][0], end, value + 1, end)
        else:
            spans.append((value, end, value + 1, end))
    return spans


def integers(name: str, values: Any) -> list[int]:
    """One whole number or several, as a list; `RequestError` for anything else."""
    if isinstance(values, np.ndarray):
        values = values.reshape(-1)
    if isinstance(values, bool) or not isinstance(values, int | np.integer | Iterable):
        raise RequestError(f"{name} is {values!r}; give integers")
    items = [values] if isinstance(values, int | np.integer) else list(values)
    if not items:
        raise RequestError(f"{name} is empty; name at least one")
    return [integer(name, value) for value in items]


def integer(name: str, value: Any) -> int:
    """A whole number that fits 32 bits, as an int; `RequestError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise RequestError(f"{name} holds {value!r}; give integers")
    if abs(int(value)) >= EVERYWHERE:
        raise RequestError(f"{name} holds {value}; numbers end below {EVERYWHERE}")
    return int(value)


def _padded(spans: list[tuple[int, ...]] | list[Span], width: int) -> np.ndarray:
    array = np.zeros((padded_size(len(spans)), width), np.int32)
    array[: len(spans)] = spans
    return array
