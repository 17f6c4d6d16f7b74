"""Users' own logits processors, each for the rows whose requests carry it.

Dimension key: R rows, V vocabulary, L history length.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.types import ProcessorLane, SamplingState


def run_processors(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
    lanes: tuple[ProcessorLane, ...] = (),
) -> Float[Array, "R V"]:
    """Every row through its processors, in their order: `(logits [V], tokens [L], length)`.

    `tokens` holds -1 from `length` on: a processor sees no further than the sampler. A lane that no
    row uses costs nothing.
    """
    for lane in lanes:
        logits = _run_lane(logits, state, slots, lengths, lane)
    return logits


def _run_lane(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
    lane: ProcessorLane,
) -> Float[Array, "R V"]:
    used = lane.used[slots]

    def processed() -> Array:
        history = state.history[slots]
        seen = jnp.arange(history.shape[1]) < lengths[:, None]
        rows = jax.tree.map(lambda table: table[slots], lane.processor)
        out = jax.vmap(lambda processor, *row: processor(*row))(
            rows, logits, jnp.where(seen, history, -1), lengths
        )
        return jnp.where(used[:, None], out, logits)

    return jax.lax.cond(jnp.any(used), processed, lambda: logits)
