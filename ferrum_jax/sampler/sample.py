"""One token per row: process the logits, then choose.

Dimension key: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.sampler.bias import add_bias
from ferrum_jax.sampler.masks import forbid_bad_words, hold_off_the_end, restrict_tokens
from ferrum_jax.sampler.mirostat import limit_surprise, next_mu
from ferrum_jax.sampler.order import first_argmax
from ferrum_jax.sampler.penalties import apply_penalties
from ferrum_jax.sampler.processors import run_processors
from ferrum_jax.sampler.state import active_slots
from ferrum_jax.sampler.truncate import truncate
from ferrum_jax.types import ProcessorLane, SamplingState

ROWS_AT_ONCE = 8
"""Rows that a CPU samples together: their logits stay in its cache from pass to pass.

64 rows of 32,000 and of 128,256 tokens (temperature and top-p, jax 0.10.2, two cores of an AMD
EPYC) take 13 and 65 ms so, and 36 and 197 ms in one piece.
"""


class Sampled(NamedTuple):
    """What one step samples."""

    tokens: Int[Array, " R"]
    processed: Float[Array, "R V"]
    """The logits whose softmax is sampled from."""
    stuck: Bool[Array, " R"]
    """Where processing left no distribution: the token means nothing."""
    mirostat_mu: Float[Array, " R"]


def sample(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
    active: Bool[Array, " R"],
    lanes: tuple[ProcessorLane, ...] = (),
    *,
    processes: bool = True,
) -> Sampled:
    """The next token of each row, int32: a function of its logits, history, seed and position.

    Args:
        logits: of the model, fp32.
        lengths: tokens of the row's history that precede the sampled one; also its position.
        active: rows whose token is wanted; others are treated as greedy and cost nothing.
        lanes: the logits processors of the step's requests.
        processes: False where no request has more than a temperature: then nothing else is
            compiled.
    """
    run = partial(_sample, state=state, lanes=lanes, processes=processes)
    rows = (logits, active_slots(state, slots, active), lengths)
    with jax.named_scope("sample"):
        if len(logits) <= ROWS_AT_ONCE or len(logits) % ROWS_AT_ONCE:
            return run(*rows)
        used = jnp.max(jnp.where(active, jnp.arange(len(active)) + 1, 0))
        in_parts = partial(_in_parts, run, used)
        return jax.lax.platform_dependent(*rows, cpu=in_parts, default=run)


def _in_parts(run: Callable[..., Sampled], used: Int[Array, ""], *rows: Array) -> Sampled:
    """`run`, for a few of the rows after the other; zeros behind the first `used`."""
    parts = tuple(x.reshape(-1, ROWS_AT_ONCE, *x.shape[1:]) for x in rows)
    shapes = jax.eval_shape(run, *(x[0] for x in parts))
    count = len(parts[0])
    nothing = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), shapes)

    def visit(index: Array, results: Sampled) -> Sampled:
        found = run(*(x[index] for x in parts))
        return jax.tree.map(lambda all, one: all.at[index].set(one), results, found)

    results = jax.lax.fori_loop(0, -(-used // ROWS_AT_ONCE), visit, nothing)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)


def _sample(
    logits: Float[Array, "R V"],
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
    *,
    state: SamplingState,
    lanes: tuple[ProcessorLane, ...],
    processes: bool,
) -> Sampled:
    scaled, processed, stuck = _process(logits, state, slots, lengths, lanes, processes)
    tokens = choose(processed, state, slots, lengths)
    mu = next_mu(scaled, tokens, state, slots) if processes else state.mirostat_mu[slots]
    return Sampled(tokens, processed, stuck, mu)


def process_logits(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
    lanes: tuple[ProcessorLane, ...] = (),
    *,
    processes: bool = True,
) -> Float[Array, "R V"]:
    """The logits whose softmax is sampled from; rows with the padding's slot stay as they are.

    In this order: penalties, bias, the requests' own processors, masks, temperature, truncation.
    Greedy rows have neither temperature nor truncation. `processes` as in `sample`.
    """
    return _process(logits, state, slots, lengths, lanes, processes)[1]


def _process(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
    lanes: tuple[ProcessorLane, ...],
    processes: bool,
) -> tuple[Float[Array, "R V"], Float[Array, "R V"], Bool[Array, " R"]]:
    """The logits before and after truncation, and the rows that were left no distribution."""
    if not processes:
        scaled = scale_by_temperature(logits, state, slots, lengths)
        return scaled, scaled, jnp.zeros(slots.shape, bool)
    adjusted, stuck = _adjust(logits, state, slots, lengths, lanes)
    scaled = scale_by_temperature(adjusted, state, slots, lengths)
    return scaled, _truncate(scaled, state, slots, lengths), stuck


def _adjust(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
    lanes: tuple[ProcessorLane, ...],
) -> tuple[Float[Array, "R V"], Bool[Array, " R"]]:
    """All that comes before the temperature, and the rows it left without a distribution.

    The masks come last: nothing undoes them.
    """

    def adjusted() -> tuple[Array, Array]:
        changed = apply_penalties(logits, state, slots, lengths)
        changed = add_bias(changed, state, slots, lengths)
        changed = run_processors(changed, state, slots, lengths, lanes)
        for mask in (restrict_tokens, forbid_bad_words, hold_off_the_end):
            changed = mask(changed, state, slots, lengths)
        return changed, rows_failed(changed) & state.adjusts[slots]

    nothing = jnp.zeros(slots.shape, bool)
    return jax.lax.cond(jnp.any(state.adjusts[slots]), adjusted, lambda: (logits, nothing))


def _truncate(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    def truncated() -> Array:
        return limit_surprise(truncate(logits, state, slots, lengths), state, slots, lengths)

    return jax.lax.cond(jnp.any(state.truncates[slots]), truncated, lambda: logits)


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
