"""Sequences enter their slots whole, and nothing else changes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ferrum_jax.sampler import SlotUpdate, make_sampling_state, sequence_key, slot_rows, write_slots
from ferrum_jax.types import SamplingParams
from tests.sampler.batch import MAX_LEN, ROWS, VOCAB, make_state, same_params, write

SIZES = {"num_slots": ROWS, "max_len": MAX_LEN, "vocab_size": VOCAB}


def test_keys_are_functions_of_seed_and_index():
    keys = {
        tuple(sequence_key(seed, index).tolist())
        for seed in (-(2**63), -1, 0, 1, 2, 2**63 - 1)
        for index in range(50)
    }
    assert len(keys) == 6 * 50
    assert sequence_key(7, 3).tolist() == sequence_key(7, 3).tolist()
    assert sequence_key(7, 3).dtype == np.uint32


def test_keys_never_change_between_releases():
    assert sequence_key(0, 0).tolist() == [546444547, 4149738308]


def test_a_seed_that_does_not_fit_is_refused():
    with pytest.raises(OverflowError):
        sequence_key(2**63, 0)


def test_a_row_holds_what_its_params_say():
    params = SamplingParams(
        temperature=0.5,
        top_k=-1,
        top_p=0.75,
        min_p=0.25,
        repetition_penalty=1.5,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        logit_bias={7: 2.0, 3: -4.0},
        allowed_token_ids=(0, 31, 32, 39),
        logprobs=4,
        prompt_logprobs=0,
    )
    update = SlotUpdate(5, [3, 1, 2], 2, params, sequence_key(9, 1))
    state = write(make_sampling_state(ROWS, MAX_LEN, VOCAB), *slot_rows([update], **SIZES))
    row = jax.tree.map(lambda array: np.asarray(array[5]), state)
    assert row.history[:4].tolist() == [3, 1, 2, 0]
    assert row.prompt_lens == 2
    assert row.seeds.tolist() == sequence_key(9, 1).tolist()
    assert (row.temperature, row.top_k, row.top_p, row.min_p) == (0.5, 0, 0.75, 0.25)
    assert (row.repetition_penalty, row.presence_penalty, row.frequency_penalty) == (1.5, 1, -1)
    assert row.bias_ids[:3].tolist() == [7, 3, 0]
    assert row.bias_values[:3].tolist() == [2, -4, 0]
    assert row.allowed.tolist() == [[1 | 1 << 31, 1 | 1 << 7]]
    assert row.restricted
    assert (row.num_logprobs, row.num_prompt_logprobs) == (4, 0)


def test_other_slots_and_the_paddings_stay_as_they_were():
    before = make_state(same_params(temperature=0.25, logprobs=3))
    update = SlotUpdate(2, [1] * 10, 10, SamplingParams(top_k=3), sequence_key(1, 0))
    after = write(before, *slot_rows([update], **SIZES))
    neutral = make_sampling_state(ROWS, MAX_LEN, VOCAB)
    for old, new, empty in zip(*map(jax.tree.leaves, (before, after, neutral)), strict=True):
        others = [i for i in range(ROWS) if i != 2]
        np.testing.assert_array_equal(old[np.array(others)], new[np.array(others)])
        np.testing.assert_array_equal(new[ROWS], empty[ROWS])
        assert old.dtype == new.dtype


def test_a_slot_that_is_taken_again_forgets_its_former_sequence():
    full = make_state(
        same_params(logit_bias={5: 1.0}, allowed_token_ids=[1], logprobs=3),
        tokens=[[7] * MAX_LEN] * ROWS,
    )
    update = SlotUpdate(0, np.arange(3, dtype=np.int32), 3, SamplingParams(), sequence_key(0, 0))
    state = write(full, *slot_rows([update], **SIZES))
    assert np.asarray(state.history[0]).sum() == 3
    assert not np.asarray(state.bias_values[0]).any()
    assert not state.restricted[0]
    assert state.num_logprobs[0] == -1


def test_a_temperature_too_small_for_fp32_is_greedy():
    assert make_state(same_params(temperature=1e-60)).temperature[0] == 0


def test_writing_compiles_once_whatever_is_written():
    traces = []

    @jax.jit
    def counted(state, slots, rows):
        traces.append(None)
        return write_slots(state, slots, rows)

    state = make_sampling_state(ROWS, MAX_LEN, VOCAB)
    key = sequence_key(0, 0)
    for updates in (
        [],
        [SlotUpdate(1, [1, 2], 1, SamplingParams(seed=3), key)],
        [SlotUpdate(i, [1] * i, 0, SamplingParams(allowed_token_ids=[i]), key) for i in range(8)],
    ):
        state = counted(state, *slot_rows(updates, **SIZES))
    assert len(traces) == 1


def test_more_sequences_than_a_write_takes_are_refused():
    update = SlotUpdate(0, [1], 1, SamplingParams(), sequence_key(0, 0))
    with pytest.raises(AssertionError, match="3 updates; one write takes 2"):
        slot_rows([update] * 3, **SIZES, width=2)
    with pytest.raises(AssertionError, match="601 tokens exceed the history"):
        slot_rows([SlotUpdate(0, [1] * 601, 1, SamplingParams(), update.key)], **SIZES)
