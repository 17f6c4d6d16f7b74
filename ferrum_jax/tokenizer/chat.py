"""Chat templates: from a conversation to the prompt's text."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ferrum_jax.tokenizer.conversation import (
    Continuation,
    plain,
    plain_documents,
    plain_messages,
    plain_tools,
)
from ferrum_jax.tokenizer.meter import Meter
from ferrum_jax.tokenizer.sandbox import MeteredEnvironment
from ferrum_jax.types.errors import RequestError, TokenizerError

MAX_TEMPLATE = 2**18


@dataclass(frozen=True)
class ChatText:
    """A rendered conversation."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    """First and last-plus-one character of every `{% generation %}` block, in order."""
    has_blocks: bool = False
    """Whether the template has such blocks."""


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

    def render(self, messages: Sequence[Any], **options: Any) -> str:
        """The prompt text of a conversation; see `render_spans` for the options."""
        return self.render_spans(messages, **options).text

    def render_spans(
        self,
        messages: Sequence[Any],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        chat_template: str | None = None,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> ChatText:
        """The prompt text of a conversation, and where the assistant's words stand in it.

        Args:
            messages: mappings or dataclasses with role, content and whatever the template reads.
            add_generation_prompt: end with the header of the assistant's next message.
            continue_final_message: end with the last message, left open; a text names the field
                that goes on, True means its content. No generation prompt is added then.
            chat_template: names one of the templates or is a template itself; without it the
                template "tool_use" is taken if there are `tools` and such a template, else the
                default one.
            tools: JSON schemas, or Python functions with type hints and a docstring.
            documents: mappings, for templates that cite.
            variables: what else the template reads.

        Raises:
            RequestError: messages or tools that are no plain data, or a conversation that the
                template itself refuses.
            TokenizerError: a template that is missing, wrong, refused by the sandbox or over a
                limit.
        """
        source = self._choose(chat_template, tools)
        try:
            given = {name: plain(value, name) for name, value in variables.items()}
            given["messages"] = plain_messages(messages)
            given["tools"] = plain_tools(tools)
            given["documents"] = plain_documents(documents)
        except RecursionError as error:
            raise RequestError(
                "the messages contain themselves or are nested too deeply"
            ) from error
        open_end = None
        if continue_final_message:
            open_end = Continuation(given["messages"], continue_final_message)
        given["add_generation_prompt"] = add_generation_prompt and open_end is None
        with self._lock:
            chat = self._template(source).render({**self._variables, **given})
        return chat if open_end is None else replace(chat, text=open_end.cut(chat.text))

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
        self._has_blocks = re.search(r"{%[-+]?\s*generation\s*[-+]?%}", source) is not None
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:  # jinja2 and the Python compiler raise many kinds
            raise _failed(error) from error

    def render(self, variables: Mapping[str, Any]) -> ChatText:
        environment = self._environment
        environment.meter = meter = Meter()
        environment.written, environment.spans = 0, []
        chunks = []
        try:
            for chunk in self._template.generate(variables):
                chunks.append(chunk)
                environment.written += len(chunk)
                meter.check_size(environment.written)
        except (TokenizerError, RequestError):
            raise
        except Exception as error:  # a template can raise anything that Python can
            raise _failed(error) from error
        return ChatText("".join(chunks), tuple(environment.spans), self._has_blocks)


def _failed(error: Exception) -> TokenizerError:
    line = getattr(error, "lineno", None)
    where = f" in line {line}" if line else ""
    return TokenizerError(f"the chat template failed{where}: {type(error).__name__}: {error}")
