"""`clean_up_tokenization_spaces`: no space before punctuation and English contractions.

WordPiece and unigram tokenizers put a space before every word; the replacements are those of
transformers' `clean_up_tokenization`, in its order. BPE tokenizers keep their own spaces.
"""

from __future__ import annotations

Replacements = tuple[tuple[str, str], ...]

CLEAN_UP: Replacements = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean(text: str, replacements: Replacements) -> str:
    """The text with one replacement after the other made in all of it."""
    for old, new in replacements:
        text = text.replace(old, new)
    return text


class StreamCleaner:
    """`clean` of a text that comes in pieces.

    Each replacement holds back only what may still begin its pattern, and works on what the one
    before it gives out: all pushes and the flush together are `clean` of the whole text.
    """

    def __init__(self, replacements: Replacements) -> None:
        self._replacements = replacements
        self._held = [""] * len(replacements)

    def push(self, text: str) -> str:
        """The part of the cleaned text that is decided now."""
        for stage, (old, new) in enumerate(self._replacements):
            text = self._replace(stage, text, old, new)
        return text

    def flush(self) -> str:
        """The rest, when no more text comes."""
        text = ""
        for stage, (old, new) in enumerate(self._replacements):
            text = self._replace(stage, text, old, new) + self._held[stage]
            self._held[stage] = ""
        return text

    def _replace(self, stage: int, text: str, old: str, new: str) -> str:
        *parts, tail = (self._held[stage] + text).split(old)
        size = next((n for n in range(len(old) - 1, 0, -1) if tail.endswith(old[:n])), 0)
        cut = len(tail) - size
        self._held[stage] = tail[cut:]
        return new.join([*parts, tail[:cut]])
