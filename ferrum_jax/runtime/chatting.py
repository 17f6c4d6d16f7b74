"""The method of `LLM` that continues conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.types import RequestError, RequestOutput, SamplingParams, TokenizerError

Message = Mapping[str, Any]


class Chatting:
    """What an LLM does with conversations."""

    tokenizer: Tokenizer | None

    def generate(self, prompts: Any, params: Any = None, **service: Any) -> list[RequestOutput]:
        """Continue prompts."""
        raise NotImplementedError

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        template: Mapping[str, Any] | None = None,
        **service: Any,
    ) -> list[RequestOutput]:
        """Answer conversations, all of them batched; the outputs are in their order.

        Args:
            messages: one conversation, a list of `{"role": ..., "content": ...}`, or several.
            params: as `generate` takes them.
            template: what the chat template is rendered with: tools (JSON schemas, or Python
                functions with type hints and docstrings), documents, chat_template,
                add_generation_prompt, continue_final_message, and variables of the template.
            service: as `generate` takes it.

        Raises:
            TokenizerError: there is no tokenizer or no chat template.
            RequestError: a conversation that the template refuses, or that is no plain data.
        """
        texts = [self.chat_ids(each, **(template or {})) for each in _conversations(messages)]
        return self.generate(texts, params, **service)

    def chat_ids(self, messages: Sequence[Message], **template: Any) -> list[int]:
        """The token ids of one conversation; the options are those of `chat`'s `template`.

        Special tokens are those that the chat template writes.
        """
        if self.tokenizer is None:
            raise TokenizerError(
                "this model was loaded without a tokenizer, so it has no chat template; give "
                "lists of token ids to generate"
            )
        text = self.tokenizer.apply_chat_template(messages, **template)
        return self.tokenizer.encode(text, add_special_tokens=False)


def _conversations(messages: Any) -> list[Any]:
    """Several conversations from one or several."""
    if not isinstance(messages, list | tuple) or not messages:
        raise RequestError(
            f"messages is {messages!r}; give a list of messages, or a list of such lists"
        )
    return list(messages) if isinstance(messages[0], list | tuple) else [messages]
