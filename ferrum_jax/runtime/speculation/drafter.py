"""Gives running sequences their drafts before each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from ferrum_jax.interfaces import Proposer
from ferrum_jax.runtime.executor import Executor
from ferrum_jax.runtime.guides import Guides
from ferrum_jax.runtime.speculation.chance import AcceptanceChance
from ferrum_jax.runtime.speculation.ngram import NgramProposer
from ferrum_jax.scheduler import ContinuousScheduler
from ferrum_jax.types import RequestError, Speculation
from ferrum_jax.types import Sequence as RunningSequence

Drafts = Sequence[Sequence[int]]


class DraftSource(Protocol):
    """Drafts for many sequences together."""

    def draft(self, wanted: dict[RunningSequence, int]) -> Drafts:
        """Up to so many tokens for each sequence; all of its tokens are known and in the cache but
        the last."""
        ...

    def forget(self, sequence: RunningSequence) -> None:
        """Drop what is kept of a sequence; idempotent."""
        ...


class Drafter:
    """Decides who drafts how many tokens, as earlier drafts were accepted."""

    def __init__(self, speculation: Speculation, source: DraftSource, guides: Guides):
        self._speculation, self._source, self._guides = speculation, source, guides
        self._chances: dict[RunningSequence, AcceptanceChance] = {}

    def draft(self, running: Iterable[RunningSequence]) -> None:
        """Put a draft into every sequence that can go on with one."""
        wanted = {s: self._length(s) for s in running if _can_draft(s)}
        if not wanted:
            return
        for sequence, tokens in zip(wanted, self._source.draft(wanted), strict=True):
            draft = tuple(tokens[: wanted[sequence]])
            sequence.draft = self._guides.cut(sequence, draft)

    def note(self, sequence: RunningSequence, drafted: int, accepted: int) -> None:
        """A step has verified a sequence's draft; one without any counts too."""
        if (chance := self._chances.get(sequence)) is not None:
            chance.note(drafted, accepted)

    def forget(self, sequence: RunningSequence) -> None:
        """Drop what is kept of a sequence; idempotent."""
        self._chances.pop(sequence, None)
        self._source.forget(sequence)

    def _length(self, sequence: RunningSequence) -> int:
        chance = self._chances.setdefault(sequence, AcceptanceChance())
        length = chance.length(self._speculation.num_tokens, self._speculation.min_chance)
        # The last token comes from the verification itself.
        return min(length, sequence.max_len - len(sequence.token_ids) - 1)


class HostDrafts:
    """A `DraftSource` of one `Proposer` for each sequence."""

    def __init__(self, make: Callable[[], Proposer], vocab_size: int):
        self._make, self._vocab_size = make, vocab_size
        self._proposers: dict[RunningSequence, Proposer] = {}

    def draft(self, wanted: dict[RunningSequence, int]) -> Drafts:
        return [self._of(sequence, count) for sequence, count in wanted.items()]

    def forget(self, sequence: RunningSequence) -> None:
        self._proposers.pop(sequence, None)

    def _of(self, sequence: RunningSequence, count: int) -> Sequence[int]:
        if count <= 0:
            return ()
        if sequence not in self._proposers:
            self._proposers[sequence] = self._make()
        draft = self._proposers[sequence].propose(sequence.token_ids, count)
        for token in draft:
            if not (isinstance(token, int | np.integer) and 0 <= token < self._vocab_size):
                raise RequestError(
                    f"the proposer drafted {token!r}; the vocabulary has ids 0 to "
                    f"{self._vocab_size - 1}"
                )
        return draft


class ModelDrafts:
    """A `DraftSource` that runs a draft model for all sequences together."""

    def __init__(self, executor: Executor, scheduler: ContinuousScheduler):
        self._executor, self._scheduler = executor, scheduler

    def draft(self, wanted: dict[RunningSequence, int]) -> Drafts:
        counts = {s: self._with_room(s, count) for s, count in wanted.items()}
        drafts = self._executor.draft(counts)
        return [draft[: counts[s]] for s, draft in zip(wanted, drafts, strict=True)]

    def forget(self, sequence: RunningSequence) -> None:
        pass

    def _with_room(self, sequence: RunningSequence, count: int) -> int:
        """As many of `count` tokens as there are pages for: the last one is not run."""
        ahead = len(sequence.token_ids) - 1
        return max(0, min(count, self._scheduler.make_room(sequence, ahead + count) - ahead))


def make_drafter(
    speculation: Speculation | None,
    executor: Executor,
    scheduler: ContinuousScheduler,
    guides: Guides,
) -> Drafter | None:
    """The drafter that an engine's settings name; None without speculation."""
    if speculation is None:
        return None
    if speculation.uses_model:
        return Drafter(speculation, ModelDrafts(executor, scheduler), guides)

    def lookup() -> Proposer:
        return NgramProposer(*speculation.ngram)

    make = speculation.draft if callable(speculation.draft) else lookup
    return Drafter(speculation, HostDrafts(make, executor.vocab_size), guides)


def _can_draft(sequence: RunningSequence) -> bool:
    """Whether a sequence decodes and all of its tokens are known.

    Mistaken drafts would move mirostat's state: a request with it goes token by token.
    """
    request, known = sequence.request, len(sequence.token_ids)
    return (
        sequence.num_scheduled == known - 1
        and not sequence.num_pending
        and not request.score_only
        and request.params.mirostat is None
    )
