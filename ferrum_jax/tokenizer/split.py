"""Finding special and added tokens in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ferrum_jax.tokenizer.files import AddedToken


class TokenSplitter:
    """Cuts a text into token ids and the stretches of plain text between them.

    The leftmost token wins and, of several at one place, the longest. A token takes the spaces
    before it with `lstrip` and those behind it with `rstrip`; with `single_word` it is not found
    inside a word.
    """

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._ids = {token.content: token_id for token_id, token in tokens.items()}
        by_length = sorted(tokens.values(), key=lambda token: len(token.content), reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, by_length)) or r"(?!)")

    def split(self, text: str) -> Iterator[int | str]:
        """The ids and non-empty texts, in order."""
        start = 0
        for match in self._pattern.finditer(text):
            if match.start() > start:
                yield text[start : match.start()]
            yield self._ids[self._content(match)]
            start = match.end()
        if start < len(text):
            yield text[start:]

    def _content(self, match: re.Match[str]) -> str:
        """The token's own text, without the spaces that it has taken."""
        return match[0] if match[0] in self._ids else match[0].strip()


def _pattern(token: AddedToken) -> str:
    body = re.escape(token.content)
    if token.single_word:
        body = rf"(?<!\w){body}(?!\w)"
    return rf"{r'\s*' if token.lstrip else ''}{body}{r'\s*' if token.rstrip else ''}"
