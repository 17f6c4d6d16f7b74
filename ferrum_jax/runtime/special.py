"""Which running sequences need more of a step than the next token."""

from __future__ import annotations

from itertools import compress

from ferrum_jax.runtime.batches import slot_of
from ferrum_jax.sampler import processes_logits
from ferrum_jax.types import Schedule, ScheduledChunk, Sequence


class SpecialSlots:
    """The slots of sequences that are guided, that score their prompts, or whose sampling is more
    than a temperature. Where there are none, no chunk has to be looked at."""

    def __init__(self) -> None:
        self._guided: set[int] = set()
        self._scoring: set[int] = set()
        self._processing: set[int] = set()

    def put(self, sequence: Sequence) -> None:
        """A slot has a new owner."""
        params, slot = sequence.request.params, slot_of(sequence)
        for slots, member in (
            (self._guided, params.guided is not None),
            (self._scoring, params.prompt_logprobs is not None),
            (self._processing, processes_logits(params)),
        ):
            if member:
                slots.add(slot)
            else:
                slots.discard(slot)

    def guided(self, schedule: Schedule) -> list[Sequence]:
        """The guided sequences that sample a token."""
        return [c.sequence for c in _of(self._guided, schedule) if c.samples]

    def score(self, schedule: Schedule) -> bool:
        """Whether a prompt token is to be scored."""
        return any(map(_scores, _of(self._scoring, schedule)))

    def process(self, schedule: Schedule) -> bool:
        """Whether some sampling, or the logprobs of a prompt, take more than a temperature."""
        return any(
            chunk.samples or _scores_processed(chunk) for chunk in _of(self._processing, schedule)
        )


def _of(slots: set[int], schedule: Schedule) -> list[ScheduledChunk]:
    """The chunks whose sequences have such a slot."""
    if not slots:
        return []
    are_there = [sequence.slot in slots for sequence in schedule.columns.sequences]
    return list(compress(schedule.chunks, are_there)) if any(are_there) else []


def _scores(chunk: ScheduledChunk) -> bool:
    """Whether the chunk holds a position whose successor is a prompt token to be scored."""
    sequence, end = chunk.sequence, chunk.start + chunk.length
    return sequence.request.score_from <= end and chunk.start + 1 < sequence.prompt_len


def _scores_processed(chunk: ScheduledChunk) -> bool:
    params = chunk.sequence.request.params
    return params.prompt_logprobs is not None and params.logprobs_mode == "processed"
