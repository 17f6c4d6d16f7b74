"""The JSON schema of a Python function, for chat templates that offer tools.

The form is that of transformers' `get_json_schema`: a docstring in Google's style gives the
descriptions, type hints give the types.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ferrum_jax.types.errors import RequestError

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_TYPES = {**_SCALARS, list: "array", tuple: "array", dict: "object"}
_SECTION = re.compile(r"^(Args|Returns|Raises):[ \t]*$", re.MULTILINE)
_ENTRY = re.compile(r"(\w+)[ \t]*(?:\([^()]*\))?:[ \t]*(.*)", re.DOTALL)
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """`{"type": "function", "function": {name, description, parameters, return}}`.

    Raises:
        RequestError: a docstring, a description or a type hint is missing, or a hint has no JSON
            schema; the message names the function and the argument.
    """
    name = getattr(function, "__name__", "function")
    sections = _sections(function, name)
    described = _entries(sections.get("Args", ""))
    hints = get_type_hints(function)
    properties, required = {}, []
    for argument, parameter in _parameters(function).items():
        if argument not in hints:
            raise _refused(name, f"argument {argument} has no type hint")
        if argument not in described:
            raise _refused(name, f"its docstring does not describe the argument {argument}")
        properties[argument] = _described(_schema(hints[argument], name), described[argument])
        if parameter.default is inspect.Parameter.empty:
            required.append(argument)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    schema = {"name": name, "description": sections["description"], "parameters": parameters}
    returned = _returned(hints, sections.get("Returns"), name)
    return {"type": "function", "function": schema | returned}


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Every parameter but an unbound method's own."""
    parameters = dict(inspect.signature(function).parameters)
    first = next(iter(parameters), None)
    if first in ("self", "cls") and parameters[first].annotation is inspect.Parameter.empty:
        del parameters[first]
    return parameters


def _sections(function: Callable[..., Any], name: str) -> dict[str, str]:
    doc = inspect.getdoc(function)
    if not doc or not doc.strip():
        raise _refused(name, "it has no docstring")
    head, *rest = _SECTION.split(doc.strip())
    titles, bodies = rest[::2], rest[1::2]
    return {"description": head.strip(), **dict(zip(titles, bodies, strict=True))}


def _entries(body: str) -> dict[str, str]:
    """`name: text` entries, a deeper indented line belonging to the one above it."""
    lines = [line for line in body.splitlines() if line.strip()]
    depth = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    entries: list[str] = []
    for line in lines:
        starts = len(line) - len(line.lstrip()) == depth
        if starts and _ENTRY.match(line.strip()):
            entries.append(line.strip())
        elif entries:
            entries[-1] += " " + line.strip()
    matches = (_ENTRY.match(entry) for entry in entries)
    return {match[1]: match[2].strip() for match in matches if match is not None}


def _described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    choices = _CHOICES.search(text)
    if choices is not None:
        try:
            values = json.loads(choices[1])
        except ValueError as error:
            raise RequestError(f"a tool's choices are {choices[1]!r}, which is no JSON") from error
        schema = schema | {"enum": [v.strip() if isinstance(v, str) else v for v in values]}
        text = text[: choices.start()].strip()
    return schema | {"description": text}


def _returned(hints: dict[str, Any], text: str | None, name: str) -> dict[str, Any]:
    """The entry of the result; nothing where its type has no schema, for templates ignore it."""
    if "return" not in hints:
        return {}
    try:
        schema = _schema(hints["return"], name)
    except RequestError:
        return {}
    return {"return": schema | ({} if text is None else {"description": text.strip()})}


def _schema(hint: Any, name: str) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choices([member.value for member in hint], name)
    if origin is Literal:
        return _choices(list(args), name)
    if origin in (Union, types.UnionType):
        return _union(args, name)
    if hint is Any:
        return {}
    if origin is None and hint in _TYPES:
        return {"type": _TYPES[hint]}
    if origin is list:
        return {"type": "array", "items": _schema(args[0], name)}
    if origin is tuple and len(args) > 1 and ... not in args:
        return {"type": "array", "prefixItems": [_schema(item, name) for item in args]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(get_args(hint)[1], name)}
    raise _refused(name, f"the type hint {hint!r} has no JSON schema")


def _choices(values: list[Any], name: str) -> dict[str, Any]:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise _refused(name, f"the choices {values!r} are not texts, numbers, booleans or None")
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _union(args: tuple[Any, ...], name: str) -> dict[str, Any]:
    parts = [_schema(arg, name) for arg in args if arg is not type(None)]
    if len(parts) == 1:
        schema = parts[0]
    elif all(part.keys() == {"type"} and isinstance(part["type"], str) for part in parts):
        kinds = sorted({part["type"] for part in parts})
        schema = {"type": kinds[0] if len(kinds) == 1 else kinds}
    else:
        schema = {"anyOf": parts}
    return schema | {"nullable": True} if type(None) in args else schema


def _refused(name: str, why: str) -> RequestError:
    return RequestError(f"the tool {name} has no schema: {why}; give its JSON schema instead")
