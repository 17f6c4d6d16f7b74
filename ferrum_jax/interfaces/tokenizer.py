"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """What the engine, the scorer and the CLI ask of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids that the tokenizer knows, added tokens included."""
        ...

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a text, as the tokenizer's own files name them."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that `decode(..., skip_special_tokens=True)` leaves out."""
        ...

    @property
    def chat_template(self) -> str | None: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens (a leading BOS, say) as the files ask for."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of whole tokens; bytes that are no UTF-8 become U+FFFD."""
        ...

    def token_text(self, token_id: int) -> str:
        """One token as its vocabulary spells it, for tables and figures."""
        ...

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt text of a conversation, rendered in a sandbox."""
        ...
