"""Where one output stands in its grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt32


class GuidedText:
    """A `Grammar`: follows a text token by token, and tells which tokens may come next.

    What it knows is a function of the tokens that it was given: `follow` brings it to any others.
    """

    def __init__(self, matcher: Any, vocab_size: int):
        """Over a matcher of llguidance of its own, at the start of its grammar."""
        self._matcher, self._vocab_size = matcher, vocab_size
        self._tokens: list[int] = []

    def follow(self, tokens: Sequence[int]) -> None:
        """Stand behind these tokens; those that it has seen already cost nothing."""
        if list(tokens[: len(self._tokens)]) != self._tokens:
            self._matcher.reset()
            self._tokens = []
        for token in tokens[len(self._tokens) :]:
            self.accept(token)

    def accept(self, token_id: int) -> None:
        """Advance by a token. Behind one that is not allowed nothing is."""
        self._tokens.append(token_id)
        self._matcher.consume_token(token_id)

    def allowed(self) -> UInt32[np.ndarray, " W"]:
        """One bit per id that may come next; an end of text where the text is whole."""
        words = np.zeros(-(-self._vocab_size // 32), np.uint32)
        if not self.error:
            found = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
            words[:] = found[: len(words)]
        if rest := self._vocab_size % 32:
            words[-1] &= np.uint32((1 << rest) - 1)
        return words

    def allowed_along(self, draft: Sequence[int]) -> UInt32[np.ndarray, "n W"]:
        """`allowed` here and behind each token of a draft, n = 1 + the tokens that it allows.

        It stands where it stood before.
        """
        ahead = GuidedText(self._matcher.deep_copy(), self._vocab_size)
        rows = [ahead.allowed()]
        for token in draft:
            if not rows[-1][token // 32] >> np.uint32(token % 32) & np.uint32(1):
                break
            ahead.accept(token)
            rows.append(ahead.allowed())
        return np.stack(rows)

    @property
    def finished(self) -> bool:
        """Whether the text is whole and nothing may follow it."""
        return self._matcher.is_stopped() and not self.error

    @property
    def error(self) -> str:
        """Why the text cannot go on; empty where it can."""
        return self._matcher.get_error() if self._matcher.is_error() else ""
