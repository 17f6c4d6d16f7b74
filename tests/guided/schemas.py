"""JSON schemas of the kinds that are in use, each with an end: none lets a text go on for ever."""

from __future__ import annotations

from typing import Any


def obj(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


WORD = {"type": "string", "maxLength": 6}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
WORDS = {"type": "array", "items": WORD, "maxItems": 2}

SCHEMAS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "integer in a range": {"type": "integer", "minimum": -12, "maximum": 345},
    "multiples": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "short string": {"type": "string", "minLength": 2, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "uuid": {"type": "string", "format": "uuid"},
    "address": {"type": "string", "format": "ipv4"},
    "enum of any type": {"enum": ["red", "green", 3, None, True, {"a": 1}]},
    "constant": {"const": {"kind": "ping", "ids": [1, 2]}},
    "array of digits": {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 5},
    "tuple": {
        "type": "array",
        "prefixItems": [WORD, DIGIT, {"type": "boolean"}],
        "items": False,
        "minItems": 3,
    },
    "object": obj({"name": WORD, "age": DIGIT}),
    "optional properties": {
        "type": "object",
        "properties": {"a": DIGIT, "b": WORD, "c": {"type": "null"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "nested": obj({"user": obj({"id": DIGIT, "tags": WORDS})}),
    "any of": {"anyOf": [DIGIT, WORDS, {"const": "none"}]},
    "one of with a tag": {
        "oneOf": [
            obj({"shape": {"const": "dot"}, "x": DIGIT}),
            obj({"shape": {"const": "line"}, "x": DIGIT, "y": DIGIT}),
        ]
    },
    "references": {
        "$defs": {"point": obj({"x": DIGIT, "y": DIGIT})},
        **obj({"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}}),
    },
    "recursive": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"v": DIGIT, "left": {"$ref": "#/$defs/tree"}},
                "required": ["v"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "all of": {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 7}]},
    "several types": {"type": ["boolean", "null"]},
    "unusual keys": obj({"a b": DIGIT, 'quo"te': DIGIT, "ключ": DIGIT}),
}


def nested(depth: int) -> dict[str, Any]:
    """A schema of so many levels of objects and lists."""
    schema: dict[str, Any] = {"type": "null"} if depth % 2 else {"enum": [None]}
    for _ in range((depth - 1) // 2):
        schema = {"anyOf": [schema]}
    return schema
