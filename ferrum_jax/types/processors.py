"""Users' own logits processors: what may be one, and how those of a step lie side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
from flax import struct
from jax.tree_util import Partial

from ferrum_jax.types.checks import show
from ferrum_jax.types.errors import RequestError


@struct.dataclass
class ProcessorLane:
    """One kind of processor with the values of every slot that uses it."""

    processor: Any
    """a `Partial` whose arrays are tables `[S + 1, ...]`"""
    used: jax.Array
    """bool [S + 1]: the slots whose logits it changes"""


def checked_processor(value: object) -> Partial:
    """A processor as a `Partial`: a static operation, and values that never recompile.

    An operation compares by value, or every request would compile a program of its own: a
    function of a module, or an instance of a frozen dataclass.

    Raises:
        RequestError: it is no such thing.
    """
    partial = value if isinstance(value, Partial) else None
    operation = value if partial is None else partial.func
    advice = (
        "give a function defined at the top of a module, or an instance of a frozen dataclass with "
        "__call__, and what varies by jax.tree_util.Partial(function, values)"
    )
    if not callable(operation) or isinstance(operation, type):
        raise RequestError(f"logits_processors holds {show(value)}; {advice}")
    name = getattr(operation, "__qualname__", None)
    settings = getattr(operation, "__dataclass_params__", None)
    is_function = name is not None and "<" not in name
    is_frozen = dataclasses.is_dataclass(operation) and getattr(settings, "frozen", False)
    if not (is_function or is_frozen) or not _hashable(operation):
        raise RequestError(
            f"logits_processors holds {show(value)}, which does not compare by value: {advice}"
        )
    return partial or Partial(operation)


def _hashable(value: object) -> bool:
    if not isinstance(value, Hashable):
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True
