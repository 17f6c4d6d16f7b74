"""Users' own processors: each row has its own, in its order, and sees its own history only."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ferrum_jax.sampler import run_processors, sample
from ferrum_jax.types import ProcessorLane, SamplingParams
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

run = jax.jit(run_processors)


def scaled(factor, logits, tokens, length):
    return factor * logits


def forbid_last(logits, tokens, length):
    """The token that came last, and what the history shows, by its number."""
    assert tokens.shape == (MAX_LEN + 1,)
    logits = logits.at[tokens[length - 1]].set(-jnp.inf)
    return logits.at[0].set(jnp.sum(tokens >= 0).astype(jnp.float32))


@dataclass(frozen=True)
class Add:
    """Compares by value."""

    by: float

    def __call__(self, logits, tokens, length):
        return logits + self.by


def lane(processor, rows):
    return ProcessorLane(processor, jnp.zeros(ROWS + 1, bool).at[jnp.array(rows)].set(True))


def test_rows_run_their_own_processors_in_order():
    factors = np.arange(ROWS + 1, dtype=np.float32)
    lanes = (
        lane(Partial(scaled, factors), [1, 2, 3]),
        lane(Partial(Add(5.0)), [2, 3, 4]),
        lane(Partial(scaled, 10 * factors), [3]),
    )
    logits, state = random_logits(1), make_state(same_params())
    out = np.asarray(run(logits, state, SLOTS, lengths_of(0), lanes))
    want = logits.copy()
    want[1] *= 1
    want[2] = 2 * want[2] + 5
    want[3] = 30 * (3 * want[3] + 5)
    want[4] += 5
    np.testing.assert_allclose(out, want, rtol=1e-6)
    np.testing.assert_array_equal(out[[0, 5, 6, 7]], logits[[0, 5, 6, 7]])


def test_a_processor_sees_the_history_up_to_its_position():
    tokens = [[7, 8, 9, 10]] * ROWS
    logits, state = random_logits(2), make_state(same_params(), tokens)
    lengths = np.array([1, 2, 3, 4, 1, 2, 3, 4], np.int32)
    out = np.asarray(run(logits, state, SLOTS, lengths, (lane(Partial(forbid_last), range(ROWS)),)))
    for row, length in enumerate(lengths):
        assert np.flatnonzero(out[row] == -np.inf).tolist() == [6 + length]
        assert out[row, 0] == length


def test_other_values_do_not_recompile():
    traces = []

    @jax.jit
    def counted(*arguments):
        traces.append(None)
        return run_processors(*arguments)

    state = make_state(same_params())
    for seed in range(3):
        factors = np.random.default_rng(seed).normal(size=ROWS + 1).astype(np.float32)
        lanes = (lane(Partial(scaled, factors), [seed]), lane(Partial(Add(1.0)), [seed + 1]))
        counted(random_logits(0), state, SLOTS, lengths_of(0), lanes)
    assert len(traces) == 1


def test_masks_come_after_processors_and_a_broken_row_is_stuck_alone():
    params = [
        SamplingParams(allowed_token_ids=[3], logits_processors=[Add(1.0)]),
        SamplingParams(logits_processors=[Add(np.inf)]),
        *same_params()[2:],
    ]
    lanes = (
        lane(Partial(scaled, np.full(ROWS + 1, -1e9, np.float32)), [0]),
        lane(Partial(Add(np.inf)), [1]),
    )
    out = jax.jit(sample)(random_logits(0), make_state(params), SLOTS, lengths_of(0), ALL, lanes)
    assert out.tokens[0] == 3
    assert np.flatnonzero(out.stuck).tolist() == [1]
    assert np.isfinite(out.processed[2:]).all()
    assert out.processed.shape == (ROWS, VOCAB)
