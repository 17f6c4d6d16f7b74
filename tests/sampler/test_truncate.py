"""Truncations against sorting, the plain way to state them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.sampler import sample, truncate
from ferrum_jax.types import SamplingParams
from tests.sampler.batch import (
    ROWS,
    SLOTS,
    VOCAB,
    chi_squared,
    lengths_of,
    make_state,
    random_logits,
)

run, draw = jax.jit(truncate), jax.jit(sample)


def kept(logits, params, nudge=0.0):
    """bool [V]; `nudge` moves the thresholds, to tell where rounding may decide."""
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits.astype(np.float64) - logits.max())
    if params.top_k > 0:
        order = order[: params.top_k]
    if params.tfs_z < 1:
        order = order[: before_tail(weights, order, params.tfs_z * (1 + nudge))]
    if params.typical_p < 1:
        order = most_typical(weights, order, params.typical_p + nudge)
        order = order[np.argsort(-logits[order], kind="stable")]
    if params.top_p < 1:
        mass = np.cumsum(weights[order]) / weights[order].sum()
        order = order[: 1 + np.sum(mass[:-1] < params.top_p + nudge)]
    keep = np.zeros(len(logits), bool)
    keep[order] = True
    return keep & (weights >= params.min_p * (1 + nudge) * weights[order].max())


def before_tail(weights, order, z):
    """How many tokens tail-free sampling keeps; what top-k dropped has probability 0."""
    p = np.zeros(len(weights))
    p[: len(order)] = weights[order] / weights[order].sum()
    bends = np.abs(np.diff(np.diff(p)))
    return 1 + np.sum(np.cumsum(bends) / bends.sum() <= z) if bends.sum() > 0 else len(p)


def most_typical(weights, order, mass):
    """The fewest tokens of that mass, those whose surprise is nearest to the entropy first."""
    p = weights[order] / weights[order].sum()
    surprise = -np.log(p)
    distance = np.abs(surprise - np.sum(p * surprise))
    by_distance = np.argsort(distance, kind="stable")
    running = np.cumsum(p[by_distance])
    return order[by_distance[: 1 + np.sum(running[:-1] < mass)]]


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


TYPICAL = st.builds(
    SamplingParams,
    temperature=st.just(1.0),
    top_k=st.sampled_from([0, 30, 5]),
    typical_p=st.floats(0.02, 0.99),
    top_p=st.sampled_from([1.0, 0.9]),
)
TAIL_FREE = st.builds(
    SamplingParams,
    temperature=st.just(1.0),
    top_k=st.sampled_from([0, 30, 5]),
    tfs_z=st.floats(0.02, 0.999),
    min_p=st.sampled_from([0.0, 0.05]),
)


@settings(max_examples=40)
@given(st.lists(TYPICAL | TAIL_FREE, min_size=ROWS, max_size=ROWS), st.integers(0, 999))
def test_typical_and_tail_free_keep_what_their_definitions_keep(params, seed):
    logits = random_logits(seed)
    out = run_rows(logits, params)
    decided = 0
    for row in range(ROWS):
        low, high = (kept(logits[row], params[row], nudge) for nudge in (-1e-4, 1e-4))
        if (low == high).all():
            decided += 1
            np.testing.assert_array_equal(out[row], low, str(params[row]))
    assert decided > ROWS // 2


def test_typical_may_leave_the_likeliest_out_and_equal_tokens_go_by_id():
    """The entropy of 0.4 and eight times 0.075 is 2.8 bits: 3.7 bits are nearer than 1.3."""
    p = np.full(VOCAB, 1e-30)
    p[3], p[10:18] = 0.4, 0.075
    logits = np.tile(np.log(p).astype(np.float32), (ROWS, 1))
    params = [SamplingParams(typical_p=mass) for mass in (0.01, 0.1, 0.2, 0.49, 0.51, 0.59, 0.9, 1)]
    out = run_rows(logits, params)
    sizes = [1, 2, 3, 7, 7, 8, 9, VOCAB]
    assert out.sum(axis=1).tolist() == sizes
    assert np.flatnonzero(out[1]).tolist() == [10, 11]
    assert out[:, 3].tolist() == [size > 8 for size in sizes]


def test_flat_distributions_have_no_tail():
    logits = np.zeros((ROWS, VOCAB), np.float32)
    logits[1:, 20:] = -np.inf
    out = run_rows(logits, [SamplingParams(tfs_z=0.6)] * ROWS)
    assert out.sum(axis=1).tolist() == [VOCAB] + [20] * (ROWS - 1)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(typical_p=0.6),
        SamplingParams(tfs_z=0.8),
        SamplingParams(top_k=7, temperature=1.5),
        SamplingParams(top_p=0.8, min_p=0.05, temperature=0.7),
        SamplingParams(typical_p=0.8, tfs_z=0.95, top_k=20, top_p=0.9),
    ],
    ids=lambda params: f"{params.typical_p} {params.tfs_z} {params.top_k} {params.top_p}",
)
def test_draws_follow_the_truncated_softmax(params):
    count = 4096
    logits = random_logits(12)[0] / 2
    scaled = (logits / np.float32(params.temperature)).astype(np.float32)
    keep = kept(scaled, params)
    assert 2 < keep.sum() < VOCAB
    rows = np.arange(count, dtype=np.int32)
    state = make_state([params] * ROWS)
    tokens = draw(np.tile(logits, (count, 1)), state, 0 * rows, rows, np.ones(count, bool)).tokens
    weights = np.where(keep, np.exp(scaled.astype(np.float64)), 0)
    statistic, freedom = chi_squared(np.asarray(tokens), weights / weights.sum())
    assert statistic < freedom + 3.3 * np.sqrt(2 * freedom) + 8
