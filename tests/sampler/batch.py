"""A small batch that the tests share: one shape, so that each function compiles once."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ferrum_jax.sampler import SlotUpdate, make_sampling_state, sequence_key, slot_rows, write_slots
from ferrum_jax.types import SamplingParams, SamplingState

ROWS = 8
VOCAB = 40
MAX_LEN = 600
SLOTS = jnp.arange(ROWS, dtype=jnp.int32)
ALL = jnp.ones(ROWS, bool)

write = jax.jit(write_slots)


def make_state(
    params: Sequence[SamplingParams],
    tokens: Sequence[Sequence[int]] = (),
    prompt_lens: Sequence[int] = (),
    seeds: Sequence[int] = (),
) -> SamplingState:
    """A state whose slot i holds `params[i]`; histories are empty and seeds are i by default."""
    updates = [
        SlotUpdate(
            slot=i,
            tokens=tokens[i] if tokens else (),
            prompt_len=prompt_lens[i] if prompt_lens else 0,
            params=one,
            key=sequence_key(seeds[i] if seeds else i, 0),
        )
        for i, one in enumerate(params)
    ]
    sizes = {"num_slots": ROWS, "max_len": MAX_LEN, "vocab_size": VOCAB}
    return write(make_sampling_state(*sizes.values()), *slot_rows(updates, **sizes, width=ROWS))


def same_params(**changes) -> list[SamplingParams]:
    return [SamplingParams(**changes)] * ROWS


def chi_squared(draws: np.ndarray, probabilities: np.ndarray) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; impossible tokens must not be drawn.

    Tokens expected fewer than five times count as one.
    """
    expected = probabilities * len(draws)
    seen = np.bincount(draws, minlength=len(probabilities))
    assert not seen[probabilities == 0].any()
    rare = (expected < 5) & (expected > 0)
    expected = np.append(expected[expected >= 5], expected[rare].sum())
    seen = np.append(seen[(probabilities * len(draws)) >= 5], seen[rare].sum())
    exists = expected > 0
    statistic = np.sum((seen[exists] - expected[exists]) ** 2 / expected[exists])
    return float(statistic), int(np.sum(exists)) - 1


def random_logits(seed: int, rows: int = ROWS, vocab: int = VOCAB) -> np.ndarray:
    return (3 * np.random.default_rng(seed).normal(size=(rows, vocab))).astype(np.float32)


def lengths_of(value: int, rows: int = ROWS) -> jax.Array:
    return jnp.full(rows, value, jnp.int32)
