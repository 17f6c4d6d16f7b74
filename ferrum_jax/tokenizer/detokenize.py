"""Tokens to text, one token at a time.

A token is not a piece of text: byte-level tokens end in the middle of a character, sentencepiece
drops the space before the first word, byte-fallback tokens mean nothing before their run ends. The
detokenizer therefore decodes a short window of tokens again and returns what is new and decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ferrum_jax.interfaces.tokenizer import CleaningTokenizer, Tokenizer
from ferrum_jax.tokenizer.clean import StreamCleaner
from ferrum_jax.types.errors import TokenizerError

REPLACEMENT = "\ufffd"

# A UTF-8 character has at most 4 bytes and every token kept has at least one, so 8 tokens hold the
# undecided bytes and at least 4 tokens of context before them.
_CONTEXT = 8


class IncrementalDetokenizer:
    """The text of a growing list of tokens.

    All pushes and the flush together give exactly `tokenizer.decode(ids, skip_special_tokens=...)`.
    With `prefix_ids` (the prompt) they give what follows the prompt's text in the decode of both:
    appended to the prompt's text, `.text` gives the whole text, the space between them included.
    If the prompt ends inside a character, its text ends with U+FFFD there, and the completion
    begins with the whole character.

    A push never returns part of a character. U+FFFD comes out only once later tokens (or `flush`)
    have shown that its bytes are no UTF-8. A run of byte-fallback tokens (`<0xE4>`) comes out at
    its end, because its last byte may still make all of it invalid.

    A push decodes at most 16 tokens and the byte-fallback run before them: O(1) amortised.
    Ids outside the vocabulary have no text, as in `decode`. Where `decode` cleans up spaces, the
    stream does the same to the completion's text, and holds back a space that may have to go.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        prefix_ids: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._special_ids = tokenizer.special_ids
        self._pieces: list[str] = []
        replacements = getattr(tokenizer, "replacements", ())
        self._cleaner = StreamCleaner(replacements) if replacements else None
        self._window = self._tail(prefix_ids)
        text = self._decode(self._window)
        # Replacement characters at the prompt's end may turn into a character; until the first
        # tokens tell, it is open whether the prompt's text has shown what stands there.
        stem = text.rstrip(REPLACEMENT)
        self._shown = len(stem)
        self._shown_by_prefix = len(text) - len(stem)

    @property
    def text(self) -> str:
        """Everything that pushes and flush have returned so far."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def push(self, token_id: int) -> str:
        """The text that this token decides; often the token's own, at times nothing."""
        spelling = self._spelling(token_id)
        if spelling is None:
            return ""
        self._window.append(token_id)
        if _is_byte(spelling):
            return ""
        text = self._decode(self._window)
        piece = self._take(text, len(text) - text.endswith(REPLACEMENT))
        self._shrink(text)
        return piece

    def flush(self) -> str:
        """The rest of the text, incomplete bytes as U+FFFD. No token may be pushed afterwards."""
        text = self._decode(self._window)
        piece = self._take(text, len(text))
        if self._cleaner is None:
            return piece
        rest = self._cleaner.flush()
        self._pieces.append(rest)
        return piece + rest

    def _take(self, text: str, end: int) -> str:
        """Return what the window's text has beyond the part shown, up to `end`."""
        while self._shown_by_prefix and self._shown < end:
            if text[self._shown] != REPLACEMENT:
                self._shown_by_prefix = 0
                break
            self._shown_by_prefix -= 1
            self._shown += 1
        piece = text[self._shown : end]
        self._shown += len(piece)
        if self._cleaner is not None:
            piece = self._cleaner.push(piece)
        self._pieces.append(piece)
        return piece

    def _shrink(self, text: str) -> None:
        """Keep the window short: drop the tokens whose text is decided and needed no more.

        The shorter window may start inside a character, which garbles only its first characters.
        They are shown already, so counting the part not yet shown from the end stays right.
        """
        if len(self._window) < 2 * _CONTEXT:
            return
        window = self._tail(self._window)
        if len(window) == len(self._window):
            return
        self._shown += len(self._decode(window)) - len(text)
        self._window = window

    def _tail(self, ids: Sequence[int]) -> list[int]:
        """The last ids that have text, with a byte-fallback run at their start kept whole."""
        tail: list[int] = []
        for token_id in reversed(ids):
            spelling = self._spelling(token_id)
            if spelling is None:
                continue
            tail.append(token_id)
            if len(tail) >= _CONTEXT and not _is_byte(spelling):
                break
        return tail[::-1]

    def _decode(self, ids: list[int]) -> str:
        if self._cleaner is None:
            return self._tokenizer.decode(ids, skip_special_tokens=self._skip)
        cleaning = cast(CleaningTokenizer, self._tokenizer)
        return cleaning.decode_uncleaned(ids, skip_special_tokens=self._skip)

    def _spelling(self, token_id: int) -> str | None:
        """The token as its vocabulary spells it; None for one that leaves no text behind."""
        if self._skip and token_id in self._special_ids:
            return None
        try:
            return self._tokenizer.token_text(token_id)
        except TokenizerError:
            return None


def _is_byte(spelling: str) -> bool:
    return len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">")
