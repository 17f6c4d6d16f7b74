"""Penalties on tokens that a sequence already holds.

Dimension key: R rows, V vocabulary, C history positions of a block.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.types import SamplingState

BLOCK = 256
"""History positions that one iteration counts."""


def apply_penalties(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """Repetition (Keskar et al. 2019), then presence and frequency penalty, each row's own.

    Repetition divides positive and multiplies negative logits of tokens in the prompt or the
    output; presence and frequency are subtracted for tokens in the output only, once or once per
    occurrence. The work follows the lengths of the rows that use penalties; without such a row
    there is none.
    """
    uses = (
        (state.repetition_penalty[slots] != 1)
        | (state.presence_penalty[slots] != 0)
        | (state.frequency_penalty[slots] != 0)
    )

    def penalised() -> Array:
        counts = count_tokens(state, slots, jnp.where(uses, lengths, 0), logits.shape[1])
        return _penalise(logits, counts, state, slots)

    return jax.lax.cond(jnp.any(uses), penalised, lambda: logits)


def count_tokens(
    state: SamplingState, slots: Int[Array, " R"], lengths: Int[Array, " R"], vocab: int
) -> Int[Array, "R 2 V"]:
    """How often each token is among the first `lengths` of a row: in the prompt, in the output."""
    rows = jnp.arange(slots.shape[0], dtype=jnp.int32)[:, None]
    prompt_lens = state.prompt_lens[slots][:, None]
    last = state.history.shape[1] - 1

    def count_block(index: Array, counts: Array) -> Array:
        at = index * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)[None, :]
        tokens = state.history[slots[:, None], jnp.minimum(at, last)]
        generated = (at >= prompt_lens).astype(jnp.int32)
        # Positions beyond the length add nothing to a token that exists: no index leaves the array.
        return counts.at[rows, generated, tokens].add((at < lengths[:, None]).astype(jnp.int32))

    counts = jnp.zeros((slots.shape[0], 2, vocab), jnp.int32)
    blocks = (jnp.max(lengths) + BLOCK - 1) // BLOCK
    return jax.lax.fori_loop(0, blocks, count_block, counts)


def _penalise(
    logits: Float[Array, "R V"],
    counts: Int[Array, "R 2 V"],
    state: SamplingState,
    slots: Int[Array, " R"],
) -> Float[Array, "R V"]:
    repetition = state.repetition_penalty[slots][:, None]
    presence = state.presence_penalty[slots][:, None]
    frequency = state.frequency_penalty[slots][:, None]
    generated = counts[:, 1]
    seen: Bool[Array, "R V"] = (counts[:, 0] > 0) | (generated > 0)
    repeated = jnp.where(logits > 0, logits / repetition, logits * repetition)
    logits = jnp.where(seen, repeated, logits)
    return logits - presence * (generated > 0) - frequency * generated.astype(jnp.float32)
