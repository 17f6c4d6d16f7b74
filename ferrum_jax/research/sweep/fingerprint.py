"""A value's identity over processes, so that a stopped sweep knows what it has done."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

from ferrum_jax.runtime.llm import LLM
from ferrum_jax.runtime.record import weights_digest


def fingerprint(value: Any) -> str:
    """sha256 in hex of data, arrays, configs, taps, models and functions; equal for equal values.

    A function is known by its name, its source, its defaults and what it closes over; what it reads
    from globals is not seen. An object of another kind is known by its class and its attributes.
    A mapping's order does not matter. An `LLM` costs a `weights_digest`.
    """
    return _hash(value, ()).hex()


def _hash(value: Any, above: tuple[int, ...]) -> bytes:
    """`above` holds the ids of what contains the value, for structures that contain themselves."""
    if id(value) in above:
        return hashlib.sha256(b"itself").digest()
    if isinstance(value, np.generic):
        value = value.item()
    kind, content = _content(value)
    digest = hashlib.sha256(kind.encode() + b"\0")
    if isinstance(content, bytes):
        digest.update(content)
        return digest.digest()
    hashes = [_hash(part, (*above, id(value))) for part in content]
    digest.update(b"".join(sorted(hashes) if kind == "set" else hashes))
    return digest.digest()


def _content(value: Any) -> tuple[str, bytes | Iterable[Any]]:
    """What kind of thing a value is, and its bytes or its parts (of a set in any order)."""
    if isinstance(value, Enum):
        return _class_name(value), [value.value]
    if value is None or isinstance(value, bool | int | float | complex | str):
        return type(value).__name__, repr(value).encode()
    if isinstance(value, bytes):
        return "bytes", value
    if isinstance(value, np.ndarray | jax.Array):
        array = np.ascontiguousarray(np.asarray(value))
        return f"array {array.dtype.name} {np.shape(value)}", array.tobytes()
    if isinstance(value, Mapping):
        return "set", list(value.items())
    if isinstance(value, set | frozenset):
        return "set", value
    if isinstance(value, list | tuple | range):
        return "sequence", value
    if isinstance(value, LLM):
        return "llm", [value.config, value.engine_config, weights_digest(value.params)]
    return _content_of_object(value)


def _content_of_object(value: Any) -> tuple[str, Iterable[Any]]:
    if isinstance(value, FunctionType):
        return "function", _function_parts(value)
    if isinstance(value, MethodType):
        return "method", [value.__self__, value.__func__]
    if isinstance(value, partial):
        return "partial", [value.func, value.args, value.keywords]
    if isinstance(value, type | BuiltinFunctionType):
        return "named", [value.__module__, value.__qualname__]
    if isinstance(value, ModuleType):
        return "module", [value.__name__]
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return _class_name(value), [(f.name, getattr(value, f.name)) for f in fields]
    return _class_name(value), [getattr(value, "__dict__", {})]


def _function_parts(function: FunctionType) -> list[Any]:
    try:
        code: Any = inspect.getsource(function)
    except (OSError, TypeError):  # typed into a prompt that keeps no text
        code = function.__code__.co_code
    closed = [_cell_content(cell) for cell in function.__closure__ or ()]
    defaults = [function.__defaults__, function.__kwdefaults__]
    return [function.__module__, function.__qualname__, code, defaults, closed]


def _cell_content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
