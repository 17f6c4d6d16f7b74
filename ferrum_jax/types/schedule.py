"""One step's plan, as the scheduler hands it to the executor."""

from __future__ import annotations

from dataclasses import dataclass

from ferrum_jax.types.request import Sequence


@dataclass(frozen=True)
class ScheduledChunk:
    """Tokens `[start, start + length)` of a sequence."""

    sequence: Sequence
    start: int
    length: int
    samples: bool
    """Whether the chunk ends at the sequence's last token, so that the next one is sampled."""


@dataclass(frozen=True)
class Schedule:
    """The chunks of one step, and what had to give way."""

    chunks: tuple[ScheduledChunk, ...]
    admitted: tuple[Sequence, ...] = ()
    """Sequences that were given a slot in this step; their state must reach the device."""
    preempted: tuple[Sequence, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(chunk.length for chunk in self.chunks)
