"""From a schedule to the arrays of a step: the host's part of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ferrum_jax.sampler import SlotUpdate, sequence_key
from ferrum_jax.types import Schedule, SchedulerError, Sequence, StepBatch, StepShape


class BatchMaker:
    """Keeps the block tables of the running sequences, and cuts each step's batch from them."""

    def __init__(self, num_slots: int, num_pages: int, page_size: int):
        """Args:
        num_slots: sequences that run together.
        num_pages: of the longest sequence.
        page_size: tokens of a page.
        """
        self._page_size = page_size
        self._padding_slot = num_slots
        self._tables = np.zeros((num_slots + 1, num_pages), np.int32)
        self._num_written = np.zeros(num_slots + 1, np.int32)

    def admit(self, sequence: Sequence) -> None:
        """A sequence was given a slot."""
        self._tables[slot_of(sequence)] = 0
        self.renew(sequence)

    def renew(self, sequence: Sequence) -> None:
        """Pages of a sequence are others than before."""
        self._num_written[slot_of(sequence)] = 0

    def make(self, schedule: Schedule, shape: StepShape, ahead: int = 0) -> StepBatch:
        """The batch of a schedule, padded to its shape.

        Its arrays are numpy's: the compiled step moves them to the device itself.

        Args:
            ahead: tokens behind each chunk that may be written as well, where there are pages.
        """
        columns, count = schedule.columns, schedule.num_rows
        slots = np.full(shape.rows, self._padding_slot, np.int32)
        slots[:count] = _slots_of(columns.sequences)
        lengths = np.zeros(shape.rows, np.int32)
        _fill(lengths[:count], columns.lengths)
        contexts = lengths.copy()
        contexts[:count] += np.asarray(columns.starts, np.int32)
        self._write_tables(columns.sequences, slots[:count], contexts[:count] + ahead)
        if shape.steps > 1:  # The further tokens of a row are not there yet.
            further = np.asarray(columns.steps, np.int32) - 1
            lengths[:count] -= further
            contexts[:count] -= further
        samples = np.zeros(shape.rows, bool)
        _fill(samples[:count], columns.samples)
        starts = np.zeros(shape.rows + 1, np.int32)
        np.cumsum(lengths, out=starts[1:])
        arrays: dict[str, Any] = {
            "slots": slots,
            "query_starts": starts,
            "context_lens": contexts,
            "samples": samples,
            "block_tables": self._tables[slots],
        }
        if shape.drafts:
            arrays["drafts"] = drafts = np.zeros((shape.rows, shape.drafts), np.int32)
            arrays["num_drafts"] = np.zeros(shape.rows, np.int32)
            arrays["num_drafts"][:count] = [len(draft) for draft in columns.drafts]
            for row, draft in enumerate(columns.drafts):
                drafts[row, : len(draft)] = draft
        if shape.steps > 1:
            arrays["steps"] = np.zeros(shape.rows, np.int32)
            arrays["steps"][:count] = columns.steps
        return StepBatch(**arrays)

    def _write_tables(
        self, sequences: tuple[Sequence, ...], slots: np.ndarray, ends: np.ndarray
    ) -> None:
        """Bring the slots' rows up to date, as far as the tokens before `ends` need it."""
        missing = np.flatnonzero(ends > self._num_written[slots] * self._page_size)
        for row in missing.tolist():
            pages, slot = sequences[row].blocks.pages, slots[row]
            written = self._num_written[slot]
            self._tables[slot, written : len(pages)] = pages[written:]
            self._num_written[slot] = len(pages)


def _fill(target: np.ndarray, values: tuple[Any, ...]) -> None:
    """Values that are mostly all the same, in a fraction of an assignment's time then."""
    if values and values.count(values[0]) == len(values):
        target.fill(values[0])
    else:
        target[:] = values


def _slots_of(sequences: tuple[Sequence, ...]) -> list[int]:
    slots = [sequence.slot for sequence in sequences]
    return [slot_of(s) for s in sequences] if None in slots else slots  # type: ignore[return-value]


def slot_of(sequence: Sequence) -> int:
    """The slot of a running sequence.

    Raises:
        SchedulerError: it does not run.
    """
    if sequence.slot is None:
        raise SchedulerError(
            f"a sequence that is {sequence.state} was scheduled and has no slot; only running "
            "sequences are scheduled"
        )
    return sequence.slot


def slot_update(sequence: Sequence) -> SlotUpdate:
    """What the device is told of a sequence that is given its slot."""
    return SlotUpdate(
        slot=slot_of(sequence),
        tokens=sequence.token_ids,
        prompt_len=sequence.prompt_len,
        params=sequence.request.params,
        key=sequence_key(sequence.seed, sequence.index),
        bad_word_ids=sequence.request.bad_word_ids,
        end_ids=sequence.request.end_ids,
        mirostat_mu=sequence.mirostat_mus[-1] if sequence.mirostat_mus else None,
    )
