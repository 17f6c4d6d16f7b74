"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class SpellingTokenizer(Protocol):
    """A tokenizer whose tokens have bytes of their own, as guided decoding needs them."""

    def token_bytes(self) -> list[bytes]:
        """The bytes of every id; a text is the bytes of its tokens, end to end."""
        ...


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

    def encode(
        self, text: str, *, add_special_tokens: bool = True, max_length: int | None = None
    ) -> list[int]:
        """Token ids of a text; special tokens (a leading BOS, say) as the files ask for.

        With `max_length` the text is cut, not the special tokens, on the side that the files name.
        """
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


class CleaningTokenizer(Tokenizer, Protocol):
    """A tokenizer whose `decode` makes replacements in the whole text.

    Recognised by a `replacements` that is not empty.
    """

    @property
    def replacements(self) -> tuple[tuple[str, str], ...]:
        """What `decode` replaces by what, one after the other; empty where it replaces nothing."""
        ...

    def decode_uncleaned(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text before the replacements."""
        ...
