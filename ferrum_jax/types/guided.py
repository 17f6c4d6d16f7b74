"""What a guided request may say: its form and its sizes. Whether it is a grammar is found later."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ferrum_jax.types.checks import show
from ferrum_jax.types.errors import RequestError

KINDS = ("json", "json_object", "regex", "choice", "grammar")
MAX_GRAMMAR_TEXT = 2**18
"""Characters of a schema (as JSON), of a Lark grammar, and of all choices together."""
MAX_REGEX = 2**13
"""Characters of a regular expression."""
MAX_DEPTH = 64
"""Levels of lists and objects in a JSON schema, and of brackets in a regular expression."""
MAX_CHOICES = 1024
MAX_MARKER = 256
"""Characters of `after`."""

FORMS = (
    '{"json": schema}, {"json_object": True}, {"regex": "..."}, {"choice": ["...", ...]} or '
    '{"grammar": "a Lark grammar"}, with {"after": "..."} beside it or not'
)


def checked_guided(value: object) -> dict[str, str]:
    """A guided request as texts: `{kind: text}`, and `after` where it is given.

    Schemas are written as JSON, so that requests of equal schemas have equal texts; the order of
    a schema's keys is kept, for it is the order of an object's properties.

    Raises:
        RequestError: it has another form, or is too large, or holds what no grammar can.
    """
    if not isinstance(value, Mapping):
        raise RequestError(f"guided is {show(value)}; it must be {FORMS}")
    unknown = [key for key in value if key not in (*KINDS, "after")]
    kinds = [key for key in KINDS if key in value]
    if unknown or len(kinds) != 1:
        raise RequestError(f"guided has the keys {show(list(value))}; it must be {FORMS}")
    (kind,) = kinds
    check = {
        "json": _schema,
        "json_object": _any_object,
        "regex": _regex,
        "choice": _choices,
        "grammar": _grammar,
    }[kind]
    checked = {kind: check(value[kind])}
    if "after" in value:
        checked["after"] = _text("guided's after", value["after"], MAX_MARKER)
    return checked


def _schema(value: object) -> str:
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, Mapping) or not value:
        raise RequestError(
            f"guided's json is {show(value)}; it must be a JSON schema, an object with at least "
            'one key ({"json_object": True} takes any object)'
        )
    _check_json(value)
    text = json.dumps(value, ensure_ascii=False)
    return _text("guided's json", text, MAX_GRAMMAR_TEXT)


def _parsed(text: str) -> Any:
    _text("guided's json", text, MAX_GRAMMAR_TEXT)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"guided's json is text that is no JSON schema: {error}") from error


def _check_json(value: object) -> None:
    """Walk without recursion: nothing in it may be deeper, larger or other than JSON allows."""
    stack: list[tuple[object, int]] = [(value, 1)]
    seen = 0
    while stack:
        item, depth = stack.pop()
        seen += 1
        if seen > MAX_GRAMMAR_TEXT:
            raise RequestError(f"guided's json has more than {MAX_GRAMMAR_TEXT} parts")
        if isinstance(item, Mapping | list | tuple) and depth > MAX_DEPTH:
            raise RequestError(
                f"guided's json is nested deeper than {MAX_DEPTH} levels; flatten it, or name "
                "parts of it in $defs and refer to them by $ref"
            )
        if isinstance(item, Mapping):
            if not all(isinstance(key, str) for key in item):
                raise RequestError("guided's json has a key that is no text")
            stack += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list | tuple):
            stack += [(part, depth + 1) for part in item]
        elif isinstance(item, float) and not math.isfinite(item):
            raise RequestError(f"guided's json has the number {item}, which JSON cannot write")
        elif not isinstance(item, str | int | float | bool | None):
            raise RequestError(f"guided's json holds {show(item)}, which is no JSON")
        elif isinstance(item, str):
            _check_characters("guided's json", item)


def _any_object(value: object) -> str:
    if value is not True:
        raise RequestError(f"guided's json_object is {show(value)}; it must be True")
    return '{"type": "object"}'


def _regex(value: object) -> str:
    text = _text("guided's regex", value, MAX_REGEX)
    if text.count("(") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise RequestError(f"guided's regex nests brackets deeper than {MAX_DEPTH} levels")
    return text


def _depth(regex: str) -> int:
    """The deepest nesting of round brackets, those behind a backslash or in a class left out."""
    depth = deepest = 0
    escaped = in_class = False
    for char in regex:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif char == ")":
            depth -= 1
    return deepest


def _choices(value: object) -> str:
    if isinstance(value, str | bytes) or not isinstance(value, list | tuple):
        raise RequestError(f"guided's choice is {show(value)}; it must be a list of texts")
    if not 1 <= len(value) <= MAX_CHOICES:
        raise RequestError(f"guided's choice has {len(value)} texts; from 1 to {MAX_CHOICES}")
    texts = [_text("guided's choice", text, MAX_GRAMMAR_TEXT) for text in value]
    return _text("guided's choice", json.dumps(texts, ensure_ascii=False), MAX_GRAMMAR_TEXT)


def _grammar(value: object) -> str:
    text = _text("guided's grammar", value, MAX_GRAMMAR_TEXT)
    if not text.strip():
        raise RequestError("guided's grammar is empty; give a Lark grammar with a rule `start`")
    return text


def _text(name: str, value: object, limit: int) -> str:
    if not isinstance(value, str) or not value:
        raise RequestError(f"{name} is {show(value)}; it must be a text of at least one character")
    if len(value) > limit:
        raise RequestError(f"{name} has {len(value)} characters; at most {limit}")
    _check_characters(name, value)
    return value


def _check_characters(name: str, text: str) -> None:
    if "\0" in text:
        raise RequestError(f"{name} holds the character NUL, which no text of a model has")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} holds a lone surrogate, which no UTF-8 text has") from error
