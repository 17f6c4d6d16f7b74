"""The jinja2 environment in which chat templates run.

A chat template comes with a checkpoint and is not trusted. jinja2's immutable sandbox keeps it from
Python's internals. On top of that, the template's syntax tree is rewritten so that a `Meter` sees
every loop turn, macro call, filter, method call, operator, slice, list and output.

What is capped: seconds, characters of one text, characters in all, length of integers, length of
`range`. A single step of the template (a sort, a regular expression in a filter) is not
interrupted; as the sizes that it works on are capped, it ends soon. Memory outside the texts and
lists of the template is not measured. This is a guard against hostile and runaway templates, not
the isolation of a process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from ferrum_jax.tokenizer import guards
from ferrum_jax.tokenizer.meter import Meter
from ferrum_jax.tokenizer.rewrite import CONCAT, HOLD, PASS, TICK, rewrite

# Filters that run regular expressions or padding of unforeseeable cost, that are random, or that
# print Python objects.
_DROPPED_FILTERS = (
    "filesizeformat",
    "pprint",
    "random",
    "striptags",
    "urlize",
    "wordwrap",
    "xmlattr",
)

# Methods of texts that blow a text up, or reach codecs.
_DENIED_METHODS = frozenset({"decode", "encode", "expandtabs", "maketrans", "translate"})


class GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks the assistant's words for training.

    As in transformers a block counts from what was written before it, which holds wherever its
    text is not held in a macro or a variable first.
    """

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_generation"), [], [], body, lineno=line)

    def _generation(self, caller: Callable[[], str]) -> str:
        text = caller()
        start = self.environment.written  # pyright: ignore[reportAttributeAccessIssue]
        self.environment.spans.append((start, start + len(text)))  # pyright: ignore[reportAttributeAccessIssue]
        return text


class TemplateDict:
    """`dict(...)` and `dict.fromkeys(...)`, and nothing else of Python's type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class TemplateNamespace(Namespace):
    """`namespace()` without names that begin with an underscore, and without a recursive repr."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # `self` is taken from `args`, so that a template may use it as a name.
        namespace, attributes = args[0], dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(namespace, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


# `pass_context` also keeps jinja2's optimizer from calling these while it compiles.
@jinja2.pass_context
def _tick(context: Any, cost: int) -> None:
    context.environment.meter.tick(cost)


@jinja2.pass_context
def _hold(context: Any, value: Any) -> Any:
    return context.environment.meter.hold(value)


@jinja2.pass_context
def _concat(context: Any, parts: list[Any]) -> str:
    return context.environment.meter.join("", parts)


@jinja2.pass_context
def _pass(context: Any, value: Any) -> Any:
    context.environment.meter.tick()
    return value


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot hold the name {name!r}")


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with a meter; one rendering at a time.

    Set `meter`, `written` (characters given out so far) and `spans` anew before each rendering.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationBlock, loopcontrols],
            finalize=lambda value: self.meter.hold(value),
        )
        self.meter = Meter()
        self.written = 0
        self.spans: list[tuple[int, int]] = []
        self._set_globals()
        self._set_filters()

    def _set_globals(self) -> None:
        self.globals.pop("lipsum")
        self.globals["namespace"] = TemplateNamespace
        self.globals["dict"] = TemplateDict()
        self.globals["raise_exception"] = guards.raise_exception
        self.globals["strftime_now"] = guards.strftime_now

    def _set_filters(self) -> None:
        for name in _DROPPED_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = jinja2.pass_environment(guards.to_json)
        self.filters["sum"] = jinja2.pass_environment(guards.total)
        self.filters["join"] = jinja2.pass_environment(guards.join)
        self.filters = {name: self._metered(name, run) for name, run in self.filters.items()}
        self.tests = {name: self._metered("", run) for name, run in self.tests.items()}
        self.filters.update({TICK: _tick, HOLD: _hold, CONCAT: _concat, PASS: _pass})

    def _metered(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        check = guards.FILTER_GUARDS.get(name)
        skip = hasattr(run, "jinja_pass_arg")

        @functools.wraps(run)
        def metered(*args: Any, **kwargs: Any) -> Any:
            self.meter.tick()
            if check is not None:
                check(self.meter, *args[skip:], **kwargs)
            return self.meter.hold(run(*args, **kwargs))

        return metered

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return rewrite(super()._parse(source, name, filename), self)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (str, bytes)) and attr in _DENIED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        # jinja2 would print nothing for it; an attempt to leave the sandbox is to be seen.
        if attribute.startswith("_"):
            raise SecurityError(f"access to the attribute {attribute!r} is not allowed")
        return super().unsafe_undefined(obj, attribute)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.meter.tick()
        value = super().getattr(obj, attribute)
        if attribute.startswith("__") and isinstance(value, jinja2.Undefined):
            return self.unsafe_undefined(obj, attribute)
        return value

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.meter.tick()
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        guards.check_binop(self.meter, operator, left, right)
        return self.meter.hold(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.meter.tick()
        if guards.is_text_method(__obj, "join") and len(args) == 1:
            return __self.meter.join(__obj.__self__, args[0])
        guards.check_call(__self.meter, __obj, args, kwargs)
        return __self.meter.hold(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text, is_map = str(value.__self__), value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            kwargs, args = (args[0], ()) if is_map else (kwargs, args)
            guards.check_format(self.meter, text, "{", (args, kwargs))
            return _Formatter(self).vformat(text, args, kwargs)

        return formatted


class _Formatter(SandboxedFormatter):
    """`str.format` that refuses huge widths, also those that come from a variable."""

    def format_field(self, value: Any, format_spec: str) -> str:
        guards.check_width(format_spec)
        return super().format_field(value, format_spec)
