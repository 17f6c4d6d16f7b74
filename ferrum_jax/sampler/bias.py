"""Per-token additions to the logits.

Dimension key: R rows, V vocabulary.
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
