"""Finding special and added tokens in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ferrum_jax.tokenizer.files import AddedToken


class TokenSplitter:
    """Cuts a text into token ids and the stretches of plain text between them.

    The leftmost token wins and, of several at one place, the longest. A token swallows the spaces
    before it with `lstrip` and those behind it with `rstrip`; with `single_word` it is not found
    inside a word.
    """

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._tokens = {token.content: (token_id, token) for token_id, token in tokens.items()}
        by_length = sorted(tokens.values(), key=lambda token: len(token.content), reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, by_length)) or r"(?!)")

    def split(self, text: str) -> Iterator[int | str]:
        """The ids and non-empty texts, in order."""
        strip = False
        start = 0
        for match in self._pattern.finditer(text):
            token_id, token = self._tokens[match[0]]
            before = text[start : match.start()]
            before = before.lstrip() if strip else before
            before = before.rstrip() if token.lstrip else before
            if before:
                yield before
            yield token_id
            start, strip = match.end(), token.rstrip
        rest = text[start:].lstrip() if strip else text[start:]
        if rest:
            yield rest


def _pattern(token: AddedToken) -> str:
    body = re.escape(token.content)
    return rf"(?<!\w){body}(?!\w)" if token.single_word else body
