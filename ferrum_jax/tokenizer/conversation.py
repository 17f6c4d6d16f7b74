"""What a chat template sees of a conversation: plain data, in the form transformers gives it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ferrum_jax.tokenizer.meter import MAX_TEXT
from ferrum_jax.tokenizer.tools import tool_schema
from ferrum_jax.types.errors import RequestError

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names under which messages carry a model's reasoning; templates read the first two."""

_MARK = "FERRUM_JAX_CONTINUES_HERE "


def plain_messages(messages: Sequence[Any]) -> list[dict[Any, Any]]:
    """A conversation's messages without keys that are None, reasoning under every usual name.

    Raises:
        RequestError: a message is no mapping, or holds what is no plain data.
    """
    values = plain(messages, "messages")
    if not isinstance(values, list | tuple):
        raise RequestError(f"messages is a {type(messages).__name__}; give a list of messages")
    plain_ones = []
    for index, message in enumerate(values):
        if not isinstance(message, dict):
            raise RequestError(
                f"messages[{index}] is a {type(messages[index]).__name__}; a message is a mapping, "
                "such as {'role': 'user', 'content': 'Hello'}"
            )
        plain_ones.append(_reasoned({k: v for k, v in message.items() if v is not None}))
    return plain_ones


def _reasoned(message: dict[Any, Any]) -> dict[Any, Any]:
    reasoning = next((message[name] for name in REASONING if name in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def plain_tools(tools: Sequence[Any] | None) -> Any:
    """JSON schemas, of functions those that their signatures and docstrings describe."""
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        raise RequestError(f"tools is a {type(tools).__name__}; give a list of schemas")
    schemas = []
    for index, tool in enumerate(tools):
        if inspect.isfunction(tool) or inspect.ismethod(tool):
            schemas.append(tool_schema(tool))
        elif isinstance(tool, Mapping):
            schemas.append(plain(tool, f"tools[{index}]"))
        else:
            raise RequestError(
                f"tools[{index}] is a {type(tool).__name__}; a tool is a JSON schema (a mapping) "
                "or a Python function with type hints and a docstring"
            )
    return schemas


def plain_documents(documents: Sequence[Any] | None) -> Any:
    """Documents as mappings."""
    values = plain(documents, "documents")
    for index, document in enumerate(values or ()):
        if not isinstance(document, dict):
            raise RequestError(
                f"documents[{index}] is a {type(document).__name__}; a document is a mapping, such "
                "as {'title': ..., 'text': ...}"
            )
    return values


class Continuation:
    """The last message, left open at its end so that the model goes on with it."""

    def __init__(self, messages: list[dict[Any, Any]], field: str | bool) -> None:
        """Mark the end of the last message's `field` (True: its content).

        Raises:
            RequestError: there is no such text to continue.
        """
        field = field if isinstance(field, str) else "content"
        if not messages or field not in messages[-1]:
            raise RequestError(
                f"continue_final_message: the last message has no {field!r} to continue"
            )
        last = messages[-1]
        fields = REASONING if field in REASONING else (field,)
        self._text = _marked(last, [name for name in fields if last.get(name) == last[field]])

    def cut(self, rendered: str) -> str:
        """The prompt up to the end of the marked text.

        Raises:
            RequestError: the template does not show that text.
        """
        mark = _MARK.strip()
        place = rendered.rfind(mark)
        if place < 0 or self._text.strip() not in rendered:
            raise RequestError(
                "continue_final_message: the chat template does not show the last message as it "
                f"stands ({self._text[:40]!r}); continue another field, or write the prompt as text"
            )
        kept = rendered[:place]
        if mark in kept:
            raise RequestError(
                "continue_final_message: the chat template shows the last message more than once; "
                "write the prompt as text"
            )
        # Where the template trims the text, the spaces before its end are not part of the prompt.
        return kept if rendered.startswith(_MARK, place) else kept.rstrip()


def _marked(message: dict[Any, Any], fields: list[str]) -> str:
    """Put the mark behind a message's text, in place; the text without it."""
    value = message[fields[0]]
    if isinstance(value, str):
        for field in fields:
            message[field] = value + _MARK
        return value
    for block in reversed(value if isinstance(value, list | tuple) else ()):
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            text = block["text"]
            block["text"] = text + _MARK
            return text
    raise RequestError("continue_final_message: the last message has no text to continue")


def plain(value: Any, path: str) -> Any:
    """A copy made of Python's own types, so that a template meets no method that is not theirs.

    Raises:
        RequestError: a value that is neither a scalar, a list, a mapping nor a dataclass.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return _plain_scalar(value, kind)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        value = {field.name: getattr(value, field.name) for field in fields}
    if isinstance(value, Mapping):
        return {plain(k, f"{path}'s key"): plain(v, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        items = [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise RequestError(
        f"{path} is of type {type(value).__name__}; chat templates take texts, numbers, booleans, "
        "None, and lists and dicts of these"
    )


def _plain_scalar(value: Any, kind: type) -> Any:
    if kind is str and len(value) > MAX_TEXT:
        raise RequestError(f"a message of {len(value)} characters; at most {MAX_TEXT} are allowed")
    return kind(value) if kind is not str else str.__str__(value)
