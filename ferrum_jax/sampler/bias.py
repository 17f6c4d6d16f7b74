"""Per-token additions to the logits, and vocabularies cut down to a set of tokens.

Dimension key: R rows, V vocabulary, W words of 32 vocabulary bits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.types import SamplingState


def add_bias(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """Add `logit_bias`; nothing is done where no row has one."""
    del lengths
    ids, values = state.bias_ids[slots], state.bias_values[slots]
    rows = jnp.arange(slots.shape[0], dtype=jnp.int32)[:, None]
    # Unused entries add 0 to token 0.
    return jax.lax.cond(
        jnp.any(values != 0), lambda: logits.at[rows, ids].add(values), lambda: logits
    )


def restrict_tokens(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """-inf for tokens outside `allowed_token_ids`; nothing is done where no row has them."""
    del lengths
    restricted = state.restricted[slots]

    def masked() -> Array:
        allowed = _unpack(state.allowed[slots], logits.shape[1])
        return jnp.where(restricted[:, None] & ~allowed, -jnp.inf, logits)

    return jax.lax.cond(jnp.any(restricted), masked, lambda: logits)


def _unpack(words: Array, vocab: int) -> Array:
    """bool [R, V] from uint32 [R, W]."""
    assert words.shape[1] * 32 >= vocab, f"{words.shape[1]} words for {vocab} tokens"
    shifts = jnp.arange(32, dtype=jnp.uint32)
    bits = (words[:, :, None] >> shifts) & jnp.uint32(1)
    return bits.reshape(words.shape[0], -1)[:, :vocab] == 1
