"""Checks in front of the operations with which a template can make something huge.

Each looks at the operands and refuses before the operation runs: afterwards is too late.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from jinja2.filters import make_attrgetter
from jinja2.sandbox import MAX_RANGE

from ferrum_jax.tokenizer.meter import MAX_TEXT, Meter
from ferrum_jax.types.errors import RequestError, TokenizerError

_WIDE = re.compile(r"\d{5}|%[-#0 +.\d]*\*")


def raise_exception(message: str) -> None:
    """A template's way to refuse a conversation."""
    raise RequestError(f"the chat template refuses the conversation: {message}")


def strftime_now(format: str) -> str:
    """The local time of now, as a template asks for it."""
    check_width(format)
    return datetime.now().strftime(format)


def to_json(
    environment: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, as transformers' templates expect it."""
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    check_ints(environment.meter, 100, indent)
    return environment.meter.join("", encoder.iterencode(value))


def join(environment: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    """The items' texts with `d` between them."""
    parts = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return environment.meter.join(str(d), parts)


def total(environment: Any, value: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    """The sum of the items, measured while it grows."""
    parts = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    for part in parts:
        start = environment.meter.hold(start + part)
    return start


def check_binop(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """Refuse products, powers and formattings that are too large; the rest grows slowly."""
    if operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(times, int) and hasattr(value, "__len__"):
                meter.check_size(len(value) * max(0, times))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        meter.check_bits(left.bit_length() * abs(right))
    elif operator == "%" and isinstance(left, (str, bytes)):
        check_format(meter, left if isinstance(left, str) else left.decode("latin-1"), "%", right)


def check_format(meter: Meter, text: str, mark: str, values: Any) -> None:
    """Refuse a formatting by the count of its fields and the size of all its values."""
    check_width(text)
    meter.check_size(len(text) + text.count(mark) * meter.weigh(values))


def check_width(text: str) -> None:
    """Refuse widths and precisions of five digits or from an argument (`%*d`)."""
    if len(text) > MAX_TEXT or _WIDE.search(text):
        raise TokenizerError(
            f"the chat template formats with {text[:40]!r}; widths of at most 4 digits are allowed"
        )


def is_text_method(function: Any, name: str) -> bool:
    """Whether this is the method of that name of some text."""
    return (
        isinstance(function, types.BuiltinMethodType)
        and isinstance(function.__self__, str)
        and function.__name__ == name
    )


def check_call(meter: Meter, function: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Refuse a method of a text, bytes or number that would make something huge."""
    if not isinstance(function, types.BuiltinMethodType):
        return
    check_ints(meter, MAX_TEXT, *args, *kwargs.values())
    if is_text_method(function, "replace"):
        check_replace(meter, function.__self__, *args[:2])
    elif function.__name__ in ("replace", "join"):
        raise TokenizerError("the chat template works on bytes; only texts are allowed")


def check_replace(
    meter: Meter, text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any
) -> None:
    """Refuse a replacement whose result is too large."""
    text, old, new = str(text), str(old), str(new)
    meter.check_size(len(text) + text.count(old) * len(new))


def check_indent(meter: Meter, text: str, width: Any = 4, *_: Any, **__: Any) -> None:
    """Refuse an indentation whose result is too large."""
    width = len(width) if isinstance(width, str) else width
    meter.check_size(len(text) + (text.count("\n") + 1) * width)


def check_ints(meter: Meter, limit: int, *values: Any) -> None:
    """Refuse numbers beyond a limit where they are lengths."""
    for value in values:
        if isinstance(value, int) and abs(value) > limit:
            raise TokenizerError(f"the chat template asks for a size of {value}; at most {limit}")


def _check_items(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse to sort or group more items than `range` may give, and batches of such a size."""
    check_ints(meter, MAX_RANGE, len(value) if hasattr(value, "__len__") else 0)
    check_ints(meter, MAX_RANGE, *args, *kwargs.values())


def _sizes(limit: int) -> Callable[..., None]:
    def check(meter: Meter, _: Any, *args: Any, **kwargs: Any) -> None:
        check_ints(meter, limit, *args, *kwargs.values())

    return check


def _check_format_filter(meter: Meter, text: Any, *args: Any, **kwargs: Any) -> None:
    check_format(meter, str(text), "%", (args, kwargs))


FILTER_GUARDS: dict[str, Callable[..., None]] = {
    "batch": _check_items,
    "center": _sizes(MAX_TEXT),
    "dictsort": _check_items,
    "format": _check_format_filter,
    "groupby": _check_items,
    "indent": check_indent,
    "replace": check_replace,
    "round": _sizes(100),
    "slice": _check_items,
    "sort": _check_items,
    "truncate": _sizes(MAX_TEXT),
    "unique": _check_items,
}
