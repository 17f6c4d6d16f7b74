"""One token per row: process the logits, then choose.

Dimension key: R rows, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.sampler.bias import add_bias, restrict_tokens
from ferrum_jax.sampler.order import first_argmax
from ferrum_jax.sampler.penalties import apply_penalties
from ferrum_jax.sampler.state import active_slots
from ferrum_jax.sampler.truncate import truncate
from ferrum_jax.types import SamplingState


def sample(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
    active: Bool[Array, " R"],
) -> Int[Array, " R"]:
    """The next token of each row, int32: a function of its logits, history, seed and position.

    Args:
        logits: of the model, fp32.
        lengths: tokens of the row's history that precede the sampled one; also its position.
        active: rows whose token is wanted; others are treated as greedy and cost nothing.
    """
    with jax.named_scope("sample"):
        slots = active_slots(state, slots, active)
        processed = process_logits(logits, state, slots, lengths)
        return choose(processed, state, slots, lengths)


def process_logits(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """Penalties, bias, temperature, truncation: what is softmaxed is what is sampled from.

    Greedy rows have neither temperature nor truncation. Rows with the padding's slot are neutral.
    """
    for process in (apply_penalties, add_bias, restrict_tokens, scale_by_temperature, truncate):
        logits = process(logits, state, slots, lengths)
    return logits


def scale_by_temperature(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """`(logits - largest) / temperature`; rows of temperature 0 stay as they are."""
    del lengths
    temperature = state.temperature[slots][:, None]

    def scaled() -> Array:
        # The largest becomes 0, so no temperature, however small, leads to inf - inf.
        shifted = logits - jnp.max(logits, axis=1, keepdims=True)
        return jnp.where(
            temperature > 0, shifted / jnp.where(temperature > 0, temperature, 1.0), logits
        )

    return jax.lax.cond(jnp.any(temperature > 0), scaled, lambda: logits)


def choose(
    processed: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Int[Array, " R"]:
    """A token of each row's softmax by Gumbel-max; where the temperature is 0 the likeliest.

    The noise is a function of the slot's seed and of `lengths` alone. Ties go to the lowest id.
    """
    random = state.temperature[slots] > 0

    def drawn() -> Array:
        keys = jax.vmap(jax.random.fold_in)(state.seeds[slots], lengths)
        noise = jax.vmap(lambda key: _gumbel(key, processed.shape[1]))(keys)
        return first_argmax(processed + jnp.where(random[:, None], noise, 0.0))

    return jax.lax.cond(jnp.any(random), drawn, lambda: first_argmax(processed))


def rows_failed(logits: Float[Array, "R V"]) -> Bool[Array, " R"]:
    """Where no distribution exists: some logit is nan or +inf, or all are -inf."""
    unbounded = jnp.any(~(logits < jnp.inf), axis=1)
    return unbounded | jnp.all(logits == -jnp.inf, axis=1)


def _gumbel(key: Array, size: int) -> Float[Array, " V"]:
    """Standard Gumbel noise, finite, fp32.

    Made of all 32 random bits, with the resolution where large values are, so that tokens as
    unlikely as 1e-9 keep their chance; the 23 bits of a uniform float would cut them off at 1e-7.
    """
    bits = jax.random.bits(key, (size,), jnp.uint32)
    uniform = (bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
    uniform = jnp.minimum(uniform, jnp.float32(1 - 2.0**-24))
    return -jnp.log(-jnp.log1p(-uniform))
