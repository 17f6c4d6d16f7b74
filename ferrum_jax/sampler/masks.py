"""Tokens that may not be sampled: outside a set, at the end of a bad word, or too early an end.

Dimension key: R rows, V vocabulary, W words of 32 vocabulary bits, P tokens of bad words.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.types import SamplingState


def restrict_tokens(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """-inf for tokens that are not allowed at a row's length; nothing where no row has such."""
    restricted = state.restricted[slots]

    def masked() -> Array:
        ahead = jnp.clip(lengths - state.allowed_from[slots], 0, state.allowed.shape[1] - 1)
        allowed = _unpack(state.allowed[slots, ahead], logits.shape[1])
        return jnp.where(restricted[:, None] & ~allowed, -jnp.inf, logits)

    return jax.lax.cond(jnp.any(restricted), masked, lambda: logits)


def _unpack(words: Array, vocab: int) -> Array:
    """bool [R, V] from uint32 [R, W]."""
    assert words.shape[1] * 32 >= vocab, f"{words.shape[1]} words for {vocab} tokens"
    shifts = jnp.arange(32, dtype=jnp.uint32)
    bits = (words[:, :, None] >> shifts) & jnp.uint32(1)
    return bits.reshape(words.shape[0], -1)[:, :vocab] == 1


def forbid_bad_words(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """-inf for a token that would complete one of `bad_words`, wherever the word began.

    A word of one token is never sampled. Prompt and output both count as what precedes.
    """
    backs = state.bad_backs[slots]

    def masked() -> Array:
        tokens = state.bad_tokens[slots]
        at = lengths[:, None] - backs
        found = state.history[slots[:, None], jnp.clip(at, 0, state.history.shape[1] - 1)]
        differs = (backs > 0) & ((at < 0) | (found != tokens))
        # A word's tokens stand together, its last one (`back` 0) behind the others.
        last = backs == 0
        words = jnp.cumsum(last, axis=1, dtype=jnp.int32) - last
        rows = jnp.arange(slots.shape[0], dtype=jnp.int32)[:, None]
        differences = jnp.zeros(backs.shape, jnp.int32).at[rows, words].add(differs)
        return _forbid(logits, tokens, last & (differences[rows, words] == 0))

    return jax.lax.cond(jnp.any(backs >= 0), masked, lambda: logits)


def hold_off_the_end(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """-inf for tokens that end the sequence while fewer than `min_tokens` were generated.

    Of positions within the prompt nothing is forbidden.
    """
    generated = lengths - state.prompt_lens[slots]
    early = (generated >= 0) & (generated < state.min_tokens[slots])

    def masked() -> Array:
        ends = state.end_ids[slots]
        return _forbid(logits, jnp.maximum(ends, 0), early[:, None] & (ends >= 0))

    return jax.lax.cond(jnp.any(early), masked, lambda: logits)


def _forbid(
    logits: Float[Array, "R V"], tokens: Int[Array, "R P"], forbidden: Bool[Array, "R P"]
) -> Float[Array, "R V"]:
    """-inf at `tokens` where they are forbidden."""
    rows = jnp.arange(logits.shape[0], dtype=jnp.int32)[:, None]
    ceiling = jnp.where(forbidden, -jnp.inf, jnp.inf).astype(logits.dtype)
    return logits.at[rows, tokens].min(ceiling)
