"""Chat templates: from a conversation to the prompt's text."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from ferrum_jax.tokenizer.meter import MAX_TEXT, Meter
from ferrum_jax.tokenizer.sandbox import MeteredEnvironment
from ferrum_jax.types.errors import RequestError, TokenizerError

MAX_TEMPLATE = 2**18


class ChatTemplates:
    """The chat templates of one tokenizer, rendered as transformers renders them.

    Templates run in a sandbox and under limits of time and size; `sandbox.py` says which. Safe to
    call from several threads, which then wait for one another.
    """

    def __init__(self, templates: Mapping[str, str], variables: Mapping[str, Any]) -> None:
        """`templates` by name, `variables` (bos_token and so on) for all of them."""
        self._templates = dict(templates)
        self._variables = dict(variables)
        self._lock = threading.Lock()
        self._compiled: dict[str, _Template] = {}

    @property
    def default(self) -> str | None:
        """The template used unless told otherwise: "default", or the only one."""
        if len(self._templates) == 1:
            return next(iter(self._templates.values()))
        return self._templates.get("default")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt text of a conversation.

        `chat_template` names one of the templates or is a template itself; without it the template
        "tool_use" is taken if there are `tools` and such a template, else the default one. Other
        keywords reach the template as variables. Raises RequestError for messages that are no
        plain data, TokenizerError for a template that is missing, wrong, refused by the sandbox,
        over a limit, or that itself refuses the conversation.
        """
        source = self._choose(chat_template, tools)
        given = {"messages": messages, "tools": tools, "documents": documents, **variables}
        given["add_generation_prompt"] = add_generation_prompt
        try:
            plain = {name: _plain(value, name) for name, value in given.items()}
        except RecursionError as error:
            raise RequestError(
                "the messages contain themselves or are nested too deeply"
            ) from error
        with self._lock:
            return self._template(source).render({**self._variables, **plain})

    def _choose(self, wanted: str | None, tools: Sequence[Any] | None) -> str:
        if wanted is not None:
            return self._templates.get(wanted, wanted)
        if tools and "tool_use" in self._templates:
            return self._templates["tool_use"]
        if self.default is None:
            names = ", ".join(sorted(self._templates)) or "none"
            raise TokenizerError(
                f"the tokenizer has no default chat template (its templates: {names}); "
                "pass chat_template=, or the prompt as text"
            )
        return self.default

    def _template(self, source: str) -> _Template:
        if source not in self._compiled:
            self._compiled = {source: _Template(source)}
        return self._compiled[source]


class _Template:
    """One compiled template in an environment, and under a meter, of its own."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE:
            raise TokenizerError(
                f"the chat template has {len(source)} characters; the limit is {MAX_TEMPLATE}"
            )
        self._environment = MeteredEnvironment()
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:  # jinja2 and the Python compiler raise many kinds
            raise _failed(error) from error

    def render(self, variables: Mapping[str, Any]) -> str:
        self._environment.meter = meter = Meter()
        chunks, size = [], 0
        try:
            for chunk in self._template.generate(variables):
                chunks.append(chunk)
                size += len(chunk)
                meter.check_size(size)
        except TokenizerError:
            raise
        except Exception as error:  # a template can raise anything that Python can
            raise _failed(error) from error
        return "".join(chunks)


def _failed(error: Exception) -> TokenizerError:
    if type(error) is jinja2.TemplateError:
        return TokenizerError(f"the chat template refuses the conversation: {error}")
    line = getattr(error, "lineno", None)
    where = f" in line {line}" if line else ""
    return TokenizerError(f"the chat template failed{where}: {type(error).__name__}: {error}")


def _plain(value: Any, path: str) -> Any:
    """A copy made of Python's own types, so that a template meets no method that is not theirs."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return _plain_scalar(value, kind)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise RequestError(
        f"{path} is of type {type(value).__name__}; chat templates take texts, numbers, booleans, "
        "None, and lists and dicts of these"
    )


def _plain_scalar(value: Any, kind: type) -> Any:
    if kind is str and len(value) > MAX_TEXT:
        raise RequestError(f"a message of {len(value)} characters; at most {MAX_TEXT} are allowed")
    return kind(value) if kind is not str else str.__str__(value)
