"""Who else has a say in the next token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Proposer(Protocol):
    """Drafts the tokens of one sequence, for speculative decoding."""

    def propose(self, token_ids: Sequence[int], count: int) -> Sequence[int]:
        """Up to `count` tokens that may follow the sequence's, which are its prompt and what it
        has generated. Mostly it is longer than at the last call; a rewind makes it shorter."""
        ...


class Grammar(Protocol):
    """A language that the output has to stay in."""

    def allowed(self) -> np.ndarray:
        """uint32 `[ceil(V / 32)]`: one bit per token id that may come next."""
        ...

    def accept(self, token_id: int) -> None:
        """Advance by a token."""
        ...

    @property
    def finished(self) -> bool: ...
