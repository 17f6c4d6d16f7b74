"""Raw logprobs, ranks and alternatives against a log-softmax in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.sampler import num_logprobs_wanted, score_tokens, token_logprobs
from ferrum_jax.types import SamplingParams
from tests.sampler.batch import ROWS, SLOTS, VOCAB, make_state, random_logits, same_params

run = jax.jit(token_logprobs, static_argnames="max_k")
K = 20


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@settings(max_examples=25)
@given(st.integers(0, 999), st.booleans(), st.sampled_from([-1, 0, 1, 5, K]))
def test_logprobs_ranks_and_alternatives_are_those_of_the_definition(seed, ties, k):
    logits = random_logits(seed)
    logits = np.round(logits) if ties else logits
    logits[0, :7] = -0.0
    tokens = np.random.default_rng(seed).integers(0, VOCAB, ROWS).astype(np.int32)
    out = run(logits, tokens, k)
    rows, want = np.arange(ROWS)[:, None], log_softmax(logits)
    order = np.argsort(-logits, axis=1, kind="stable")
    rank = 1 + np.argmax(order == tokens[:, None], axis=1)
    np.testing.assert_allclose(out.chosen, want[rows[:, 0], tokens], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(out.rank, rank if k >= 0 else 0 * rank)
    ids = order[:, :K] if k > 0 else np.zeros((ROWS, K))
    top = want[rows, order[:, :K]] if k > 0 else np.zeros((ROWS, K))
    np.testing.assert_array_equal(out.top_ids, ids)
    np.testing.assert_allclose(out.top, top, rtol=1e-6, atol=1e-6)
    assert (out.rank.dtype, out.top_ids.dtype, out.top.dtype) == (np.int32, np.int32, np.float32)


def test_the_greedy_token_has_rank_one_and_leads_the_alternatives():
    logits = np.round(random_logits(1) / 3)
    tokens = np.argmax(logits, axis=1).astype(np.int32)
    out = run(logits, tokens, 3)
    assert out.rank.tolist() == [1] * ROWS
    np.testing.assert_array_equal(out.top_ids[:, 0], tokens)
    np.testing.assert_array_equal(out.top[:, 0], out.chosen)


@pytest.mark.parametrize("vocab", [VOCAB, 97])
def test_a_row_has_the_same_bits_in_every_batch(vocab):
    logits = random_logits(3, rows=33, vocab=vocab)
    tokens = np.arange(33, dtype=np.int32)
    whole = run(logits, tokens, 5)
    for part in (slice(0, 1), slice(3, 5), slice(10, 17), slice(32, 33)):
        alone = run(logits[part], tokens[part], 5)
        for few, many in zip(jax.tree.leaves(alone), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(few, many[part])


def test_large_logits_keep_their_precision_and_masked_tokens_are_impossible():
    logits = random_logits(2) + 1e5
    logits[:, 3] = -np.inf
    out = run(logits, np.full(ROWS, 3, np.int32), 5)
    assert (np.asarray(out.chosen) == -np.inf).all()
    assert out.rank.tolist() == [VOCAB] * ROWS
    np.testing.assert_allclose(out.top[:, 0], log_softmax(logits).max(axis=1), rtol=1e-5)


def test_half_precision_logits_are_normalised_in_fp32():
    logits = jnp.asarray(random_logits(4), jnp.bfloat16)
    out = run(logits, np.zeros(ROWS, np.int32), 0)
    want = log_softmax(np.asarray(logits, np.float32))[:, 0]
    np.testing.assert_allclose(out.chosen, want, rtol=1e-6)


def test_a_vocabulary_smaller_than_the_alternatives_gives_all_of_it():
    out = run(random_logits(0, vocab=7), np.zeros(ROWS, np.int32), 20)
    assert out.top.shape == (ROWS, 7)


def test_a_broken_row_leaves_the_others_alone():
    logits, tokens = random_logits(5), np.arange(ROWS, dtype=np.int32)
    want = run(logits, tokens, 5)
    logits[2] = np.nan
    out = run(logits, tokens, 5)
    for broken, whole in zip(jax.tree.leaves(out), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(np.delete(broken, 2, 0), np.delete(whole, 2, 0))


def test_the_most_wanted_counts_active_rows_only():
    state = make_state(
        [
            SamplingParams(),
            SamplingParams(logprobs=0),
            SamplingParams(logprobs=7),
            *same_params()[3:],
        ]
    )
    for active, want in (([], -1), ([0], -1), ([0, 1], 0), ([1, 2, 3], 7)):
        rows = jnp.zeros(ROWS, bool).at[jnp.array(active, jnp.int32)].set(True)
        assert num_logprobs_wanted(state, SLOTS, rows) == want


@pytest.mark.parametrize("count", [1, 11])
def test_chunked_scores_are_those_of_the_whole(count):
    rng = np.random.default_rng(count)
    hidden = jnp.asarray(rng.normal(size=(count, 6)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(6, VOCAB)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, VOCAB, count), jnp.int32)

    def unembed(rows, index):
        assert rows.shape == (4, 6)
        return hidden[index] @ weight

    score = jax.jit(lambda *arguments: score_tokens(unembed, *arguments, chunk=4))
    out = score(hidden, targets, jnp.full(count, 3, jnp.int32))
    want = run(hidden @ weight, targets, 3)
    np.testing.assert_allclose(out.chosen, want.chosen, atol=1e-5)
    np.testing.assert_array_equal(out.rank, want.rank)
    np.testing.assert_array_equal(out.top_ids, want.top_ids)
    np.testing.assert_allclose(out.top, want.top, atol=1e-5)


def test_chunks_that_nobody_wants_are_zero_and_the_others_are_not():
    hidden = jnp.ones((8, 6))
    wanted = jnp.array([-1] * 4 + [-1, 0, -1, -1], jnp.int32)
    score = jax.jit(lambda *a: score_tokens(lambda rows, index: rows[:, :5], *a, chunk=4))
    out = score(hidden, jnp.zeros(8, jnp.int32), wanted)
    assert out.rank.tolist() == [0] * 4 + [1] * 4
    np.testing.assert_allclose(out.chosen, [0] * 4 + [-np.log(5)] * 4, rtol=1e-6)
    assert not np.asarray(out.top).any()


def test_other_counts_of_alternatives_do_not_recompile():
    traces = []

    @jax.jit
    def counted(logits, tokens, k):
        traces.append(None)
        return token_logprobs(logits, tokens, k)

    for k in (-1, 0, 1, 20):
        counted(random_logits(k + 1), np.zeros(ROWS, np.int32), jnp.int32(k))
    assert len(traces) == 1
