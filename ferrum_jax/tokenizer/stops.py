"""Stop strings in streamed text.

Every stop string is followed by its Knuth-Morris-Pratt automaton (Knuth, Morris and Pratt 1977), so
a character costs O(1) amortised per stop string, however long the stop strings are.
"""

from __future__ import annotations

from collections.abc import Sequence

from ferrum_jax.types.errors import RequestError


class StopMatcher:
    """Cuts a stream of text at the stop string that ends first.

    Of several that end at the same character, the first in the list wins. `push` returns the text
    that may be shown now: it holds back the longest tail that may still become a stop string, and
    nothing else. Text after the stop string is never returned; the stop string itself only with
    `include_stop`.
    """

    def __init__(self, stops: Sequence[str], *, include_stop: bool = False) -> None:
        _check(stops)
        self.matched: str | None = None
        self._include_stop = include_stop
        self._automata = [_Automaton(stop) for stop in stops]
        self._held = ""

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """The text that may be shown after this much more has arrived.

        Without `may_stop` a stop string that ends in this text is like any other text; one that
        only begins in it may still end in a later one.
        """
        if self.matched is not None:
            return ""
        for index, char in enumerate(text):
            stop = self._advance(char)
            if stop is not None and may_stop:
                return self._cut(text[: index + 1], stop)
        return self._release(text)

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> str | None:
        """Move every automaton on by a character; the first in the list that has ended."""
        ended = None
        for automaton in self._automata:
            if automaton.advance(char) and ended is None:
                ended = automaton.stop
        return ended

    def _cut(self, text: str, stop: str) -> str:
        self.matched = stop
        text = self.flush() + text
        return text if self._include_stop else text[: len(text) - len(stop)]

    def _release(self, text: str) -> str:
        text = self._held + text
        keep = max((automaton.matched for automaton in self._automata), default=0)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]


class _Automaton:
    """How much of one stop string the text so far ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._borders = _borders(stop)

    def advance(self, char: str) -> bool:
        """Take a character; true when the stop string ends with it."""
        while self.matched and self.stop[self.matched] != char:
            self.matched = self._borders[self.matched - 1]
        if self.stop[self.matched] == char:
            self.matched += 1
        if self.matched < len(self.stop):
            return False
        self.matched = self._borders[-1]
        return True


def _borders(stop: str) -> list[int]:
    """Per prefix of `stop`, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(stop)
    matched = 0
    for index in range(1, len(stop)):
        while matched and stop[index] != stop[matched]:
            matched = borders[matched - 1]
        if stop[index] == stop[matched]:
            matched += 1
        borders[index] = matched
    return borders


def _check(stops: Sequence[str]) -> None:
    if isinstance(stops, str):
        raise RequestError(f"stop is the text {stops!r}; pass a list of texts, such as [{stops!r}]")
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            raise RequestError(f"the stop string {stop!r} must be a text of at least one character")
