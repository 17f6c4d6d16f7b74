"""Bad words and the tokens that `min_tokens` holds off, against searches of the whole history."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.sampler import (
    SlotUpdate,
    forbid_bad_words,
    hold_off_the_end,
    make_sampling_state,
    sample,
    sequence_key,
    slot_rows,
)
from ferrum_jax.types import SamplingParams
from tests.sampler.batch import (
    ALL,
    MAX_LEN,
    ROWS,
    SLOTS,
    VOCAB,
    chi_squared,
    lengths_of,
    random_logits,
    write,
)

forbid, hold = jax.jit(forbid_bad_words), jax.jit(hold_off_the_end)
SIZES = {"num_slots": ROWS, "max_len": MAX_LEN, "vocab_size": VOCAB}


def state_of(rows):
    """A state of `(params, tokens, prompt_len, bad words, end ids)` per slot."""
    updates = [
        SlotUpdate(i, tokens, prompt, params, sequence_key(i, 0), words, ends)
        for i, (params, tokens, prompt, words, ends) in enumerate(rows)
    ]
    return write(make_sampling_state(*SIZES.values()), *slot_rows(updates, **SIZES, width=ROWS))


FEW = st.integers(0, 3)
WORDS = st.lists(st.lists(FEW, min_size=1, max_size=4).map(tuple), max_size=4, unique=True)


@settings(max_examples=60)
@given(
    st.lists(WORDS, min_size=ROWS, max_size=ROWS),
    st.lists(st.lists(FEW, max_size=6), min_size=ROWS, max_size=ROWS),
    st.integers(0, 3),
)
def test_no_token_completes_a_bad_word(words, histories, later):
    params = SamplingParams(bad_words=["x"])
    # What stands behind the length must not count.
    rows = [
        (params, [*tokens, *[later] * 3], 0, mine, ())
        for mine, tokens in zip(words, histories, strict=True)
    ]
    lengths = np.array([len(tokens) for tokens in histories], np.int32)
    logits = random_logits(1)
    out = np.asarray(forbid(logits, state_of(rows), SLOTS, lengths))
    for row, (mine, tokens) in enumerate(zip(words, histories, strict=True)):
        for token in range(VOCAB):
            text = [*tokens, token]
            bad = any(tuple(text[-len(word) :]) == word for word in mine)
            assert out[row, token] == (-np.inf if bad else logits[row, token])


def test_words_of_1024_tokens_together_fit():
    words = [tuple(range(10, 30)) * 2, *[(i,) for i in range(4)], (7,) * 980]
    rows = [(SamplingParams(bad_words=["x"]), words[0][:-1], 0, words, ())] * ROWS
    out = np.asarray(forbid(random_logits(0), state_of(rows), SLOTS, lengths_of(39)))
    assert np.flatnonzero(out[0] == -np.inf).tolist() == [0, 1, 2, 3, 29]


@pytest.mark.parametrize("prompt", [0, 2])
def test_ends_wait_for_min_tokens(prompt):
    params = SamplingParams(min_tokens=3)
    rows = [(params, [1] * 10, prompt, (), (0, 5, VOCAB - 1))] * ROWS
    logits = random_logits(3)
    out = np.asarray(hold(logits, state_of(rows), SLOTS, np.arange(ROWS, dtype=np.int32)))
    for length in range(ROWS):
        held = np.flatnonzero(out[length] == -np.inf).tolist()
        assert held == ([0, 5, VOCAB - 1] if prompt <= length < prompt + 3 else [])
        np.testing.assert_array_equal(out[length][6:20], logits[length][6:20])


def test_draws_follow_the_softmax_over_what_is_left():
    count = 4096
    params = SamplingParams(min_tokens=2**20, max_tokens=2**20, bad_words=["x"])
    state = state_of([(params, [3, 4], 0, ((3, 4, 5), (6,)), (0,))])
    logits = random_logits(9)[0] / 2
    rows = np.arange(count, dtype=np.int32)
    keys = np.stack([rows, rows], axis=1).astype(np.uint32)
    # A row per seed: all stand at the same position, behind the tokens 3 and 4.
    state = jax.tree.map(lambda x: np.repeat(np.asarray(x)[:1], count, axis=0), state)
    state = state.replace(seeds=keys)
    out = jax.jit(sample)(
        np.tile(logits, (count, 1)), state, rows, np.full(count, 2, np.int32), np.ones(count, bool)
    )
    weights = np.exp(logits.astype(np.float64))
    weights[[0, 5, 6]] = 0
    statistic, freedom = chi_squared(np.asarray(out.tokens), weights / weights.sum())
    assert statistic < freedom + 3.3 * np.sqrt(2 * freedom) + 8


def test_a_row_with_nothing_left_is_stuck_alone():
    params = SamplingParams(min_tokens=9, allowed_token_ids=[3])
    rows = [(params, [1], 0, (), (3,))] + [(params, [1], 0, (), (4,))] * (ROWS - 1)
    out = jax.jit(sample)(random_logits(0), state_of(rows), SLOTS, lengths_of(1), ALL)
    assert np.flatnonzero(out.stuck).tolist() == [0]
    assert out.tokens[1:].tolist() == [3] * (ROWS - 1)
