"""Penalties, bias and allowed tokens against plain statements of their definitions."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.sampler import add_bias, apply_penalties, restrict_tokens
from ferrum_jax.types import SamplingParams
from tests.sampler.batch import (
    MAX_LEN,
    ROWS,
    SLOTS,
    VOCAB,
    lengths_of,
    make_state,
    random_logits,
    same_params,
)

penalise, bias, restrict = map(jax.jit, (apply_penalties, add_bias, restrict_tokens))


def penalised(logits, tokens, prompt_len, params):
    """The definition, token by token."""
    out = logits.astype(np.float64)
    for token in set(tokens):
        factor = params.repetition_penalty
        out[token] = out[token] / factor if out[token] > 0 else out[token] * factor
    for token in set(tokens[prompt_len:]):
        count = tokens[prompt_len:].count(token)
        out[token] -= params.presence_penalty + params.frequency_penalty * count
    return out


PENALTIES = st.builds(
    SamplingParams,
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]) | st.floats(0.1, 10),
    presence_penalty=st.sampled_from([0.0, -2.0]) | st.floats(-2, 2),
    frequency_penalty=st.sampled_from([0.0, 2.0]) | st.floats(-2, 2),
)


@settings(max_examples=25)
@given(
    st.lists(PENALTIES, min_size=ROWS, max_size=ROWS),
    st.lists(st.sampled_from([0, 1, 5, 255, 256, 257, 600]), min_size=ROWS, max_size=ROWS),
    st.lists(st.sampled_from([0, 1, 4, 256, 600]), min_size=ROWS, max_size=ROWS),
    st.integers(0, 99),
)
def test_penalties_are_those_of_the_definition(params, lengths, prompt_lens, seed):
    rng = np.random.default_rng(seed)
    # The history goes on behind the lengths: what is there must not count.
    tokens = rng.integers(0, VOCAB, (ROWS, MAX_LEN)).tolist()
    state = make_state(params, tokens, prompt_lens)
    logits = random_logits(seed)
    out = np.asarray(penalise(logits, state, SLOTS, np.array(lengths, np.int32)))
    for row in range(ROWS):
        want = penalised(logits[row], tokens[row][: lengths[row]], prompt_lens[row], params[row])
        np.testing.assert_allclose(out[row], want, rtol=1e-5, atol=1e-3)


def test_rows_without_penalties_keep_their_bits_beside_rows_with():
    params = [SamplingParams(presence_penalty=1.5), *same_params()[1:]]
    state = make_state(params, [[1, 2, 3]] * ROWS)
    logits = random_logits(0)
    out = np.asarray(penalise(logits, state, SLOTS, lengths_of(3)))
    np.testing.assert_array_equal(out[1:], logits[1:])
    assert (out[0] != logits[0]).sum() == 3


def test_rows_may_share_a_slot_at_different_lengths():
    """As the positions of one drafted sequence do."""
    state = make_state(same_params(presence_penalty=1.0), [[5, 6, 7, 8]] * ROWS)
    logits = np.zeros((ROWS, VOCAB), np.float32)
    out = np.asarray(penalise(logits, state, lengths_of(0), np.arange(ROWS, dtype=np.int32)))
    assert (out == -1).sum(axis=1).tolist() == [0, 1, 2, 3, 4, 5, 5, 5]


BIASES = st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=VOCAB)


@settings(max_examples=25)
@given(st.lists(BIASES, min_size=ROWS, max_size=ROWS))
def test_bias_is_added_to_its_tokens_alone(biases):
    logits = random_logits(1)
    state = make_state([SamplingParams(logit_bias=one) for one in biases])
    out = np.asarray(bias(logits, state, SLOTS, lengths_of(0)))
    want = logits.copy()
    for row, one in enumerate(biases):
        for token, value in one.items():
            want[row, token] += np.float32(value)
    np.testing.assert_array_equal(out, want)


@settings(max_examples=25)
@given(
    st.lists(
        st.none() | st.sets(st.integers(0, VOCAB - 1), min_size=1), min_size=ROWS, max_size=ROWS
    )
)
def test_only_allowed_tokens_stay(allowed):
    logits = random_logits(2)
    state = make_state([SamplingParams(allowed_token_ids=ids) for ids in allowed])
    out = np.asarray(restrict(logits, state, SLOTS, lengths_of(0)))
    for row, ids in enumerate(allowed):
        keep = np.isin(np.arange(VOCAB), list(ids)) if ids else np.ones(VOCAB, bool)
        np.testing.assert_array_equal(out[row], np.where(keep, logits[row], -np.inf))


@pytest.mark.parametrize("process", [penalise, bias, restrict])
def test_neutral_rows_keep_their_bits(process):
    logits = random_logits(3)
    logits[0, 0] = -0.0
    out = process(logits, make_state(same_params(), [[1, 2]] * ROWS), SLOTS, lengths_of(2))
    np.testing.assert_array_equal(np.asarray(out).view(np.uint32), logits.view(np.uint32))
