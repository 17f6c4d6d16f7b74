"""What tokenizers of every file format share: special ids, chat templates, checks of the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ferrum_jax.tokenizer.chat import ChatTemplates
from ferrum_jax.tokenizer.files import TokenizerFiles
from ferrum_jax.types.errors import RequestError, TokenizerError, UnsupportedError


@dataclass(frozen=True)
class EncodedChat:
    """The tokens of a conversation."""

    token_ids: tuple[int, ...]
    assistant_mask: tuple[bool, ...]
    """Per token, whether the assistant wrote it."""


class FileTokenizer:
    """A tokenizer read from files: the half of the protocol that no file format changes."""

    def __init__(
        self,
        files: TokenizerFiles,
        named: Mapping[str, str | None],
        find: Callable[[str], int | None],
        special_ids: Iterable[int],
    ) -> None:
        """`named` are the special tokens by name, `find` gives the id of a token's text."""
        self._bos_token_id = _bos_id(files, named, find)
        self._eos_token_ids = _eos_ids(files, named, find)
        self._special_ids = frozenset(special_ids)
        variables: dict[str, Any] = {name: text for name, text in named.items() if text is not None}
        if files.extra_special:
            variables["additional_special_tokens"] = list(files.extra_special)
        self._chat = ChatTemplates(files.templates, variables)
        self._truncation_side = _truncation_side(files)

    @property
    def bos_token_id(self) -> int | None:
        """The id that begins a text, if the files name one."""
        return self._bos_token_id

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokenizer's EOS, then those of generation_config.json (or else config.json)."""
        return self._eos_token_ids

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that `decode(..., skip_special_tokens=True)` leaves out."""
        return self._special_ids

    @property
    def chat_template(self) -> str | None:
        """The template that `apply_chat_template` uses unless told otherwise."""
        return self._chat.default

    def apply_chat_template(
        self,
        messages: Sequence[Any],
        *,
        add_generation_prompt: bool = True,
        **options: Any,
    ) -> str:
        """The prompt text of a conversation; see `ChatTemplates.render_spans` for the options."""
        return self._chat.render(messages, add_generation_prompt=add_generation_prompt, **options)

    def encode_chat(self, messages: Sequence[Any], **options: Any) -> EncodedChat:
        """The token ids of a conversation, and which of them the assistant wrote.

        The template's `{% generation %}` blocks say which; every token with a character in one of
        them counts. The options are those of `ChatTemplates.render_spans`.

        Raises:
            TokenizerError: the template has no such block.
            UnsupportedError: the tokenizer does not tell where its tokens stand in the text.
        """
        chat = self._chat.render_spans(messages, **options)
        if not chat.has_blocks:
            raise TokenizerError(
                "the chat template has no {% generation %} block, so the assistant's tokens are "
                "not known; mark them in it, or encode apply_chat_template's text"
            )
        ids, offsets = self.encode_offsets(chat.text)
        return EncodedChat(tuple(ids), tuple(_inside(offset, chat.spans) for offset in offsets))

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids without special ones around them, and each one's characters in the text."""
        raise UnsupportedError(
            "a sentencepiece model does not tell where its tokens stand in a text; convert it to a "
            "tokenizer.json"
        )

    def _room(self, max_length: int, extra: int) -> int:
        """Tokens left for a text beside `extra` special ones."""
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < extra:
            raise RequestError(
                f"max_length is {max_length!r}; it must be an integer from {extra}, the special "
                "tokens around a text"
            )
        return max_length - extra

    def _truncated(self, ids: list[int], room: int) -> list[int]:
        return ids[:room] if self._truncation_side == "right" else ids[len(ids) - room :]


def _inside(offset: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether a token's characters overlap one of the spans."""
    start, end = offset
    return any(start < last and end > first for first, last in spans)


def check_text(text: str) -> str:
    """The text itself; raises RequestError for what cannot be written as UTF-8."""
    if not isinstance(text, str):
        raise RequestError(f"encode takes a text, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the text has the lone surrogate {text[error.start]!r} at character {error.start}, "
            "which no UTF-8 text has; replace it"
        ) from error
    return text


def check_ids(ids: Iterable[int]) -> list[int]:
    """Plain ints >= 0; raises RequestError otherwise."""
    numbers = [int(token_id) for token_id in ids]
    if any(number < 0 for number in numbers):
        raise RequestError(f"token id {min(numbers)} is negative; ids start at 0")
    return numbers


def no_such_token(token_id: int, vocab_size: int) -> TokenizerError:
    """The error for an id that the vocabulary does not have."""
    return TokenizerError(f"token id {token_id} is not in the vocabulary of {vocab_size} ids")


def _bos_id(
    files: TokenizerFiles, named: Mapping[str, str | None], find: Callable[[str], int | None]
) -> int | None:
    # A file that sets bos_token to null says that there is none, whatever config.json has.
    if "bos_token" not in named:
        return files.bos_id
    text = named["bos_token"]
    return None if text is None else find(text)


def _eos_ids(
    files: TokenizerFiles, named: Mapping[str, str | None], find: Callable[[str], int | None]
) -> tuple[int, ...]:
    text = named.get("eos_token")
    own = None if text is None else find(text)
    ids = files.eos_ids if own is None else (own, *files.eos_ids)
    return tuple(dict.fromkeys(ids))


def _truncation_side(files: TokenizerFiles) -> str:
    side = files.config.get("truncation_side") or "right"
    if side not in ("left", "right"):
        raise TokenizerError(
            f"tokenizer_config.json: truncation_side is {side!r}; it must be left or right"
        )
    return side
