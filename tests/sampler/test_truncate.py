"""Top-k, top-p and min-p against sorting, the plain way to state them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.sampler import truncate
from ferrum_jax.types import SamplingParams
from tests.sampler.batch import ROWS, SLOTS, VOCAB, lengths_of, make_state, random_logits

run = jax.jit(truncate)


def kept(logits, params, nudge=0.0):
    """bool [V]; `nudge` moves the thresholds, to tell where rounding may decide."""
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits.astype(np.float64) - logits.max())
    if params.top_k > 0:
        order = order[: params.top_k]
    if params.top_p < 1:
        mass = np.cumsum(weights[order]) / weights[order].sum()
        order = order[: 1 + np.sum(mass[:-1] < params.top_p + nudge)]
    keep = np.zeros(len(logits), bool)
    keep[order] = True
    return keep & (weights >= params.min_p * (1 + nudge))


def run_rows(logits, params):
    out = np.asarray(run(logits, make_state(params), SLOTS, lengths_of(0)))
    np.testing.assert_array_equal(out[out > -np.inf], logits[out > -np.inf])
    return out > -np.inf


PARAMS = st.builds(
    SamplingParams,
    temperature=st.just(1.0),
    top_k=st.sampled_from([-1, 0, 1, 2, VOCAB - 1, VOCAB, 10**6]) | st.integers(1, VOCAB),
    top_p=st.sampled_from([1.0, 1e-30, 0.999999]) | st.floats(0.01, 1),
    min_p=st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
)
LOGITS = st.one_of(
    st.integers(0, 999).map(lambda seed: random_logits(seed)),
    # many ties
    st.integers(0, 999).map(lambda seed: np.round(random_logits(seed))),
    st.integers(0, 999).map(lambda seed: np.round(random_logits(seed) / 4) * 4),
)


@settings(max_examples=40)
@given(st.lists(PARAMS, min_size=ROWS, max_size=ROWS), LOGITS)
def test_what_is_kept_is_what_sorting_keeps(params, logits):
    out = run_rows(logits, params)
    for row in range(ROWS):
        low, high = (kept(logits[row], params[row], nudge) for nudge in (-1e-5, 1e-5))
        if (low == high).all():
            np.testing.assert_array_equal(out[row], low, str(params[row]))


def test_exactly_k_tokens_are_kept_and_ties_go_to_the_lowest_ids():
    logits = np.zeros((ROWS, VOCAB), np.float32)
    logits[:, 30] = 1.0
    logits[:, 10:20] = -0.0
    ks = [1, 2, 3, 11, 20, VOCAB - 1, VOCAB, 0]
    out = run_rows(logits, [SamplingParams(top_k=k) for k in ks])
    assert out.sum(axis=1).tolist() == [1, 2, 3, 11, 20, VOCAB - 1, VOCAB, VOCAB]
    assert np.flatnonzero(out[3]).tolist() == [*range(10), 30]


def test_the_nucleus_ends_where_its_mass_reaches_top_p():
    logits = np.full((ROWS, VOCAB), -np.inf, np.float32)
    logits[:, [4, 9, 2, 7]] = 0.0
    ps = [0.001, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1.0]
    out = run_rows(logits, [SamplingParams(top_p=p) for p in ps])
    assert out.sum(axis=1).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert np.flatnonzero(out[2]).tolist() == [2, 4]


def test_top_p_counts_the_mass_that_top_k_left():
    logits = np.zeros((ROWS, VOCAB), np.float32)
    out = run_rows(logits, [SamplingParams(top_k=4, top_p=0.5)] * ROWS)
    assert out.sum(axis=1).tolist() == [2] * ROWS


def test_min_p_is_relative_to_the_likeliest():
    logits = np.full((ROWS, VOCAB), -30, np.float32)
    logits[:, :3] = np.log([0.6, 0.3, 0.1])
    mins = [0.0, 0.1, 0.2, 0.45, 0.55, 1.0, 0.4, 0.01]
    out = run_rows(logits, [SamplingParams(min_p=m) for m in mins])
    assert out.sum(axis=1).tolist() == [VOCAB, 3, 2, 2, 1, 1, 2, 3]


def test_greedy_rows_are_not_truncated():
    out = run_rows(
        random_logits(0), [SamplingParams(temperature=0, top_k=1, top_p=0.1, min_p=1.0)] * ROWS
    )
    assert out.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_row_leaves_the_others_alone(bad):
    params = [SamplingParams(top_k=3, top_p=0.9, min_p=0.01)] * ROWS
    logits = random_logits(5)
    want = run_rows(logits, params)
    broken = logits.copy()
    broken[3] = bad
    out = np.asarray(run(broken, make_state(params), SLOTS, lengths_of(0))) > -np.inf
    np.testing.assert_array_equal(np.delete(out, 3, 0), np.delete(want, 3, 0))
