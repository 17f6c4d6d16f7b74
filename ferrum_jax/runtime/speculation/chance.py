"""How likely a sequence's next draft token is to be accepted, from those before."""

from __future__ import annotations

import math
from dataclasses import dataclass

FORGETTING = 0.9
"""What an earlier draft counts for when the next one has been verified."""
FIRST_GUESS, WEIGHT = 0.7, 2.0
"""The chance before anything was drafted, and how many draft tokens that is worth."""


@dataclass(slots=True)
class AcceptanceChance:
    """A running estimate: accepted over verified tokens of the sequence's newest drafts.

    Tokens behind the first that was refused tell nothing and do not count. Steps without a draft
    let it drift back to the first guess, so that drafting is tried again.
    """

    accepted: float = 0.0
    verified: float = 0.0

    @property
    def value(self) -> float:
        return (self.accepted + FIRST_GUESS * WEIGHT) / (self.verified + WEIGHT)

    def note(self, drafted: int, accepted: int) -> None:
        """A draft of so many tokens (0: there was none) was verified."""
        self.accepted = FORGETTING * self.accepted + accepted
        self.verified = FORGETTING * self.verified + min(drafted, accepted + 1)

    def length(self, longest: int, least: float) -> int:
        """How many tokens to draft: as long as all are accepted with a chance of `least`."""
        if least == 0 or self.value >= 1:
            return longest
        if self.value <= 0:
            return 0
        return min(longest, int(math.log(least) / math.log(self.value) + 1e-9))
