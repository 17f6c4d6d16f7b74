"""A sampled token is a function of its row's logits, history, seed and position, and of no more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.sampler import choose, process_logits, rows_failed, sample
from ferrum_jax.sampler.sample import ROWS_AT_ONCE
from ferrum_jax.types import SamplingParams
from tests.sampler.batch import (
    ALL,
    MAX_LEN,
    ROWS,
    SLOTS,
    VOCAB,
    lengths_of,
    make_state,
    random_logits,
    same_params,
)

TRACES = []
process = jax.jit(process_logits)


@jax.jit
def run(*arguments):
    TRACES.append(None)
    return sample(*arguments).tokens


MIXED = [
    SamplingParams(),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.3, top_k=5),
    SamplingParams(temperature=1.5, top_p=0.8, repetition_penalty=1.2),
    SamplingParams(temperature=0.0, presence_penalty=2.0, frequency_penalty=1.0),
    SamplingParams(temperature=2.0, min_p=0.05, logit_bias={3: 2.0, 0: -1.0}),
    SamplingParams(temperature=1.0, allowed_token_ids=[1, 33, 39]),
    SamplingParams(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01),
]
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (ROWS, 20)).tolist()
LENGTHS = jnp.arange(3, 3 + ROWS, dtype=jnp.int32)


def mixed_state():
    return make_state(MIXED, TOKENS, [2] * ROWS)


@pytest.mark.parametrize("count", [3 * ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 1])
def test_many_rows_are_sampled_as_each_is_alone(count):
    """In parts or in one piece; some inactive, one stuck, whose token means nothing."""
    draws = np.random.default_rng(count)
    state, logits = mixed_state(), np.array(random_logits(0, rows=count))
    logits[5] = -np.inf
    slots = jnp.asarray(draws.integers(0, ROWS, count).astype(np.int32))
    slots, lengths = slots.at[5].set(6), jnp.asarray(draws.integers(3, 19, count), jnp.int32)
    active = jnp.asarray(draws.random(count) < 0.8).at[5].set(True)
    together = jax.jit(sample)(logits, state, slots, lengths, active)
    assert np.asarray(together.stuck).tolist() == [row == 5 for row in range(count)]
    for row in set(range(count)) - {5}:
        rows = [jnp.repeat(x[row : row + 1], ROWS, axis=0) for x in (slots, lengths, active)]
        alone = jax.jit(sample)(np.repeat(logits[row : row + 1], ROWS, axis=0), state, *rows)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(a[row], b[0])


def chi_squared(draws: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * len(draws)
    seen = np.bincount(draws, minlength=len(probabilities))
    return float(np.sum((seen - expected) ** 2 / expected))


@pytest.mark.parametrize("varied", ["positions", "seeds"])
def test_draws_follow_the_softmax(varied):
    count, vocab = 4096, 12
    logits = 1.2 * np.random.default_rng(4).normal(size=vocab).astype(np.float32)
    state = make_state(same_params(temperature=1.0))
    rows, zeros = jnp.arange(count, dtype=jnp.int32), jnp.zeros(count, jnp.int32)
    lengths = rows
    if varied == "seeds":
        keys = jnp.stack([zeros, rows], axis=1).astype(jnp.uint32)
        state = state.replace(seeds=keys, temperature=jnp.ones(count))
        rows, zeros, lengths = zeros, rows, zeros
    draws = jax.jit(choose)(jnp.tile(logits, (count, 1)), state, zeros, lengths)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    # 11 degrees of freedom exceed 31.3 once in a thousand times; the seeds are fixed.
    assert chi_squared(np.asarray(draws), probabilities) < 31.3


def test_processed_rows_are_drawn_by_their_own_softmax():
    """The whole chain: penalty, bias, temperature and truncation change the distribution."""
    params = SamplingParams(
        temperature=0.8, top_k=6, repetition_penalty=1.3, logit_bias={2: 1.0}, top_p=0.97
    )
    state = make_state([params] * ROWS, [[5, 6, 7]] * ROWS, [3] * ROWS)
    logits = random_logits(11)[0]
    processed = process(jnp.tile(logits, (ROWS, 1)), state, SLOTS, lengths_of(3))[0]
    adjusted = logits.astype(np.float64)
    adjusted[[5, 6, 7]] *= np.where(adjusted[[5, 6, 7]] > 0, 1 / 1.3, 1.3)
    adjusted[2] += 1
    weights = np.exp(adjusted / 0.8)
    order = np.argsort(-weights)[:6]
    mass = np.cumsum(weights[order]) / weights[order].sum()
    order = order[: 1 + np.sum(mass[:-1] < 0.97)]
    want = np.zeros(VOCAB)
    want[order] = weights[order] / weights[order].sum()
    np.testing.assert_allclose(np.asarray(jax.nn.softmax(processed)), want, atol=1e-6)


def test_noise_is_finite_and_reaches_the_rarest_tokens(monkeypatch):
    extremes = jnp.array([0, 1, 2**31, 2**32 - 1], jnp.uint32)
    monkeypatch.setattr(jax.random, "bits", lambda *_: extremes)
    # The third logit wins only if its noise beats the first's by 20: a chance of 2e-9.
    logits = jnp.tile(jnp.array([0.0, 0.0, 19.0, 19.0]), (ROWS, 1))
    state = make_state(same_params(temperature=1.0))
    choose_4 = jax.jit(lambda *arguments: choose(*arguments))
    assert choose_4(logits, state, SLOTS, lengths_of(0)).tolist() == [0] * ROWS
    lowest = jnp.full((ROWS, 4), -jnp.inf).at[:, 3].set(0.0)
    assert choose_4(lowest, state, SLOTS, lengths_of(0)).tolist() == [3] * ROWS


@settings(max_examples=15)
@given(st.permutations(range(ROWS)), st.integers(0, 2 ** (ROWS) - 1))
def test_tokens_do_not_depend_on_place_or_neighbours(order, mask):
    logits, state = random_logits(6), mixed_state()
    want = np.asarray(run(logits, state, SLOTS, LENGTHS, ALL))
    order = np.array(order, np.int32)
    active = np.array([mask >> row & 1 for row in range(ROWS)], bool)
    # Rows that are not active hold nonsense, as padding may.
    shuffled = np.where(active[:, None], logits[order], np.nan)
    out = np.asarray(run(shuffled, state, order, LENGTHS[order], active))
    np.testing.assert_array_equal(out[active], want[order][active])


def test_tokens_do_not_depend_on_the_number_of_rows():
    logits, state = random_logits(6), mixed_state()
    want = np.asarray(run(logits, state, SLOTS, LENGTHS, ALL))
    for first, count in ((0, 3), (5, 3), (3, 1), (7, 1)):
        part = slice(first, first + count)
        out = run(logits[part], state, SLOTS[part], LENGTHS[part], ALL[part])
        np.testing.assert_array_equal(out, want[part])


def test_tokens_do_not_depend_on_the_slot():
    state = make_state(same_params(temperature=5.0), seeds=[3] * ROWS)
    logits = np.tile(random_logits(0)[0], (ROWS, 1))
    assert len(set(run(logits, state, SLOTS, lengths_of(9), ALL).tolist())) == 1
    assert len(set(run(logits, state, SLOTS, LENGTHS, ALL).tolist())) > 3
    assert len(set(run(logits, make_state(MIXED[:1] * ROWS), SLOTS, LENGTHS, ALL).tolist())) > 1


def test_greedy_takes_the_largest_and_ties_go_to_the_lowest_id():
    logits = np.round(random_logits(2))
    logits[0] = 0.0
    logits[1, :5] = -0.0
    logits[1, 5:] = [0.0] + [-1.0] * (VOCAB - 6)
    greedy = make_state(same_params(temperature=0.0, top_k=3, top_p=0.5))
    out = run(logits, greedy, SLOTS, lengths_of(0), ALL)
    assert out.dtype == jnp.int32
    assert out.tolist() == np.argmax(logits, axis=1).tolist()
    beside_random = make_state([SamplingParams(temperature=0.0)] * 7 + [SamplingParams()])
    np.testing.assert_array_equal(
        run(logits, beside_random, SLOTS, lengths_of(0), ALL)[:7], out[:7]
    )


@pytest.mark.parametrize("temperature", [1e-45, 1e-37, 1e-6])
def test_tiny_temperatures_are_nearly_greedy(temperature):
    logits = 1e4 * random_logits(3)
    out = run(logits, make_state(same_params(temperature=temperature)), SLOTS, LENGTHS, ALL)
    assert out.tolist() == np.argmax(logits, axis=1).tolist()


def test_extreme_parameters_give_allowed_tokens():
    params = [
        SamplingParams(temperature=1e4, repetition_penalty=1e4),
        SamplingParams(repetition_penalty=1e-4, temperature=1e-6),
        SamplingParams(logit_bias=dict.fromkeys(range(VOCAB), -1e30)),
        SamplingParams(logit_bias={0: 1e30, 1: -1e30}, temperature=1e-20),
        SamplingParams(top_p=1e-45),
        SamplingParams(min_p=1.0, top_p=0.999999, top_k=2**31 - 1),
        SamplingParams(allowed_token_ids=[17], temperature=1e4),
        SamplingParams(presence_penalty=-2, frequency_penalty=2, top_k=1),
    ]
    logits = random_logits(8)
    logits[:, 20] = -np.inf
    state = make_state(params, TOKENS, [1] * ROWS)
    processed = np.asarray(process(logits, state, SLOTS, LENGTHS))
    out = np.asarray(run(logits, state, SLOTS, LENGTHS, ALL))
    assert not np.isnan(processed).any()
    assert (processed[np.arange(ROWS), out] > -np.inf).all()
    assert out[[3, 4, 6]].tolist() == [0, np.argmax(logits[4]), 17]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_row_fails_alone(bad):
    logits, state = random_logits(6), mixed_state()
    want = np.asarray(run(logits, state, SLOTS, LENGTHS, ALL))
    broken = logits.copy()
    broken[3] = bad
    out = np.asarray(run(broken, state, SLOTS, LENGTHS, ALL))
    np.testing.assert_array_equal(np.delete(out, 3), np.delete(want, 3))
    assert 0 <= out[3] < VOCAB
    assert np.flatnonzero(rows_failed(jnp.asarray(broken))).tolist() == [3]


def test_one_unbounded_logit_fails_a_row_and_a_masked_one_does_not():
    logits = random_logits(0)
    logits[1, 7], logits[2, 0], logits[4, 5] = np.nan, np.inf, -np.inf
    assert np.flatnonzero(rows_failed(jnp.asarray(logits))).tolist() == [1, 2]


def test_nothing_recompiles_when_values_change():
    state = make_state(same_params())
    run(random_logits(0), state, SLOTS, LENGTHS, ALL)
    before = len(TRACES)
    for params in (*([one] * ROWS for one in MIXED), MIXED):
        state = make_state(params, [[1] * MAX_LEN] * ROWS)
        run(random_logits(1), state, SLOTS, lengths_of(MAX_LEN), ALL)
    run(random_logits(1), state, SLOTS, LENGTHS, ~ALL)
    assert len(TRACES) == before
