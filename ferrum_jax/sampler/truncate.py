"""Truncation of the distribution: top-k, tail-free, typical, top-p, min-p (llama.cpp's order).

But for the tail-free one nothing is sorted: the place of the cut is found bit by bit, in 32 plain
passes over the logits. On a CPU that takes a tenth of a sort's time, however flat the distribution
is.

Dimension key: R rows, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from ferrum_jax.sampler.order import orderable
from ferrum_jax.sampler.tail_free import num_before_tail
from ferrum_jax.types import SamplingState


def truncate(
    logits: Float[Array, "R V"],
    state: SamplingState,
    slots: Int[Array, " R"],
    lengths: Int[Array, " R"],
) -> Float[Array, "R V"]:
    """-inf for tokens that a truncation drops; greedy rows keep all.

    - top-k keeps exactly the k largest logits, ties to the lowest ids; 0 keeps all;
    - tail-free (`tail_free.py`) keeps the likeliest tokens before the tail;
    - typical (Meister et al. 2023) keeps the smallest set of tokens with mass typical_p whose
      surprise is nearest to the entropy, which may leave the likeliest out;
    - top-p (Holtzman et al. 2020) keeps the smallest set of the likeliest tokens whose mass, after
      what came before and renormalised, reaches top_p; ties to the lowest ids;
    - min-p (Nguyen et al. 2024) keeps tokens at least min_p times as likely as the likeliest.

    Some token is always kept. A parameter that no row uses costs nothing.
    """
    del lengths
    random, vocab = state.temperature[slots] > 0, logits.shape[1]
    k = jnp.where(random & (state.top_k[slots] > 0), jnp.minimum(state.top_k[slots], vocab), vocab)
    logits = jax.lax.cond(jnp.any(k < vocab), keep_top_k, _unchanged, logits, k)
    for truncation, parameter, neutral in (
        (_tail_free, state.tfs_z, 1.0),
        (_typical, state.typical_p, 1.0),
        (_top_p, state.top_p, 1.0),
        (_min_p, state.min_p, 0.0),
    ):
        value = jnp.where(random, parameter[slots], neutral)
        used = jnp.any(value != neutral)
        logits = jax.lax.cond(used, truncation, _unchanged, logits, value)
    return logits


def keep_top_k(logits: Float[Array, "R V"], k: Int[Array, " R"]) -> Float[Array, "R V"]:
    """-inf for all but the k largest of each row, ties to the lowest ids."""
    keep = _keep_largest(logits, jnp.ones(logits.shape, jnp.int32), k)
    return jnp.where(keep, logits, -jnp.inf)


def _unchanged(logits: Float[Array, "R V"], _: Array) -> Float[Array, "R V"]:
    return logits


def _tail_free(logits: Float[Array, "R V"], z: Float[Array, " R"]) -> Float[Array, "R V"]:
    return keep_top_k(logits, num_before_tail(logits, z))


def _typical(logits: Float[Array, "R V"], typical_p: Float[Array, " R"]) -> Float[Array, "R V"]:
    surprise = -jax.nn.log_softmax(orderable(logits), axis=1)
    mass = jnp.exp(-surprise)
    entropy = jnp.sum(jnp.where(mass > 0, mass * surprise, 0.0), axis=1, keepdims=True)
    target = jnp.maximum(typical_p * jnp.sum(mass, axis=1), jnp.finfo(jnp.float32).tiny)
    keep = _keep_largest(-jnp.abs(surprise - entropy), mass, target) | (typical_p == 1)[:, None]
    return jnp.where(keep, logits, -jnp.inf)


def _top_p(logits: Float[Array, "R V"], top_p: Float[Array, " R"]) -> Float[Array, "R V"]:
    ordered = orderable(logits)
    mass = jnp.exp(ordered - jnp.max(ordered, axis=1, keepdims=True))
    # A target of 0 would be reached by no token at all.
    target = jnp.maximum(top_p * jnp.sum(mass, axis=1), jnp.finfo(jnp.float32).tiny)
    keep = _keep_largest(logits, mass, target) | (top_p == 1)[:, None]
    return jnp.where(keep, logits, -jnp.inf)


def _min_p(logits: Float[Array, "R V"], min_p: Float[Array, " R"]) -> Float[Array, "R V"]:
    floor = jnp.max(logits, axis=1) + jnp.log(min_p)
    return jnp.where(logits >= floor[:, None], logits, -jnp.inf)


def _keep_largest(values: Float[Array, "R V"], weights: Array, target: Array) -> Bool[Array, "R V"]:
    """The fewest tokens, from the largest value down, whose weights sum to `target`.

    Ties go to the lowest ids. `weights` [R, V] are not negative; where equal values have unequal
    ones, all count as the least. `target` [R] is positive; int32 or float32 both.
    """
    keys = _sortable_bits(orderable(values))
    cut = _last_key(keys, weights, target)[:, None]
    above, tied = keys > cut, keys == cut
    missing = target - jnp.sum(jnp.where(above, weights, 0), axis=1)
    weight = jnp.min(jnp.where(tied & (weights > 0), weights, target[:, None]), axis=1)
    num_tied = jnp.sum(tied, axis=1, dtype=jnp.int32)
    wanted = jnp.ceil(missing / weight)
    wanted = jnp.clip(wanted, 1, num_tied).astype(jnp.int32)
    return above | jax.lax.cond(
        jnp.any(wanted < num_tied),
        lambda: tied & (jnp.cumsum(tied, axis=1, dtype=jnp.int32) <= wanted[:, None]),
        lambda: tied,
    )


def _last_key(keys: UInt32[Array, "R V"], weights: Array, target: Array) -> UInt32[Array, " R"]:
    """The largest key such that the weights of keys from it upwards sum to `target`.

    A radix select: each pass settles one bit of the answer, the highest first.
    """

    def settle(index: Array, found: Array) -> Array:
        bit = jnp.uint32(1) << (jnp.uint32(31) - index.astype(jnp.uint32))
        candidate = found | bit
        total = jnp.sum(jnp.where(keys >= candidate[:, None], weights, 0), axis=1)
        return jnp.where(total >= target, candidate, found)

    return jax.lax.fori_loop(0, 32, settle, jnp.zeros(keys.shape[0], jnp.uint32))


def _sortable_bits(logits: Float[Array, "R V"]) -> UInt32[Array, "R V"]:
    """Integers in the order of the logits: the sign bit is turned, of negative ones all bits."""
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits | sign)
