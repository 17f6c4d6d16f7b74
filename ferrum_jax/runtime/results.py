"""A step's output on the host, moved there as far as somebody asks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import jax
import numpy as np

from ferrum_jax.runtime.taps.capture import Values
from ferrum_jax.runtime.tracker import HostLogprobs, PromptScores
from ferrum_jax.types import Logprob, Schedule, StepOutput, TokenLogprobs


class StepResults:
    """What each row of a step brought. Making it waits for the step to end."""

    def __init__(self, schedule: Schedule, output: StepOutput):
        self._schedule, self._output = schedule, output
        self._each = 1 + output.draft_len
        self.tokens: list[int] = np.asarray(output.tokens).tolist()
        """By place, of which a row has one, and one for each token of the longest draft."""
        self._rows = len(self.tokens) // (self._each * output.steps)
        self.failed, self.stuck = np.asarray(output.failed), np.asarray(output.stuck)
        self.any_failed = bool(self.failed.any() or self.stuck.any())
        self.one_each = self._each == output.steps == 1
        """Whether a row's place is its number."""
        self.read_at = time.monotonic()

    def places(self, row: int) -> range:
        """The row's places whose tokens hold: behind its draft as far as that was sampled too."""
        if self._each == 1:
            chunk = self._schedule.chunks[row]
            return range(row, row + chunk.steps * self._rows, self._rows)
        first, accepted = row * self._each, 0
        for token in self._schedule.chunks[row].draft:
            if token != self.tokens[first + accepted]:
                break
            accepted += 1
        return range(first, first + 1 + accepted)

    def logprobs(self, place: int, count: int, given: Sequence[int] = ()) -> dict[int, Logprob]:
        """The entries of the sampled token, of the `count` likeliest and of the ids `given`."""
        return self._sampled.table(place, self.tokens[place], count, given)

    def mirostat_mu(self, place: int) -> float:
        """Mirostat's state after the place's token."""
        return float(self._mirostat_mus[place])

    def fill(self, scores: PromptScores, row: int) -> None:
        """Put a row's share of the prompt's logprobs in its place, where the step scored any."""
        if self._output.prompt is not None:
            scores.fill(self._schedule.chunks[row], self._starts[row], self._prompt)

    def captured(self, row: int, length: int) -> Values:
        """What the step captured of a row's first `length` tokens, as views."""
        first = self._starts[row]
        rows = slice(first, first + length)
        return {
            site: {layer: x[rows] for layer, x in layers.items()}
            for site, layers in self._captured.items()
        }

    @cached_property
    def _captured(self) -> Values:
        return jax.tree.map(np.asarray, self._output.captured)

    @cached_property
    def _mirostat_mus(self) -> np.ndarray:
        return np.asarray(self._output.mirostat_mu)

    @cached_property
    def _sampled(self) -> HostLogprobs:
        return _to_host(self._output.logprobs)

    @cached_property
    def _prompt(self) -> HostLogprobs:
        assert self._output.prompt is not None
        return _to_host(self._output.prompt)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each row's tokens begin on the flat token axis."""
        return list(accumulate(self._schedule.columns.lengths, initial=0))


def _to_host(values: TokenLogprobs) -> HostLogprobs:
    return HostLogprobs(
        chosen=np.asarray(values.chosen),
        rank=np.asarray(values.rank),
        top_ids=np.asarray(values.top_ids),
        top=np.asarray(values.top),
        given=np.asarray(values.given),
        given_rank=np.asarray(values.given_rank),
    )
