"""Log-probabilities of chosen tokens, of the likeliest and of given ones, with their ranks.

Dimension key: n positions (T tokens of a prompt), V vocabulary, K alternatives, G given ids,
D model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.sampler.order import orderable, precedes
from ferrum_jax.sampler.state import active_slots
from ferrum_jax.types import SamplingState, TokenLogprobs
from ferrum_jax.types.sampling import MAX_LOGPROBS

TILE = 8
"""Rows that are normalised together."""


def num_logprobs_wanted(
    state: SamplingState, slots: Int[Array, " R"], active: Bool[Array, " R"]
) -> Int[Array, ""]:
    """The most alternatives that an active row wants; -1: none wants even a rank."""
    return jnp.max(state.num_logprobs[active_slots(state, slots, active)])


class GivenIds(NamedTuple):
    """Further ids whose logprobs are wanted."""

    ids: Int[Array, "n G"]
    count: Int[Array, ""]
    """How many of the G some position wants; the others are not computed (0 in their place)."""


def given_ids(state: SamplingState, slots: Int[Array, " n"], active: Bool[Array, " n"]) -> GivenIds:
    """The `logprob_token_ids` of the positions that are active."""
    slots = active_slots(state, slots, active)
    return GivenIds(state.given_ids[slots], jnp.max(state.num_given[slots]))


def token_logprobs(
    logits: Float[Array, "n V"],
    tokens: Int[Array, " n"],
    k: Int[Array, ""],
    given: GivenIds | None = None,
    max_k: int = MAX_LOGPROBS,
) -> TokenLogprobs:
    """Log-softmax in fp32 of the logits as given, at `tokens`, at the largest and at given ids.

    A token's logprob has the same bits whatever the number of rows and its place among them.

    Args:
        k: alternatives wanted, may be traced. Below 0 ranks are not computed (0 in their place);
            below 1 neither are alternatives (ids 0, logprobs 0). `chosen` always is.
        given: None: G is 0.
        max_k: alternatives returned, K = min(max_k, V); ties go to the lowest id.
    """
    with jax.named_scope("logprobs"):
        logits = logits.astype(jnp.float32)
        given = given or GivenIds(jnp.zeros((logits.shape[0], 0), jnp.int32), jnp.int32(0))
        largest, log_sum = _normaliser(logits)
        rows = jnp.arange(logits.shape[0], dtype=jnp.int32)
        at_token = logits[rows, tokens]
        size = min(max_k, logits.shape[1])

        def alternatives() -> tuple[Array, Array]:
            values, ids = jax.lax.top_k(orderable(logits), size)
            return ids.astype(jnp.int32), (values - largest[:, None]) - log_sum[:, None]

        def no_alternatives() -> tuple[Array, Array]:
            shape = (logits.shape[0], size)
            return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

        rank = jax.lax.cond(
            k >= 0, lambda: _rank(logits, at_token, tokens), lambda: jnp.zeros_like(rows)
        )
        top_ids, top = jax.lax.cond(k > 0, alternatives, no_alternatives)
        at_given, given_rank = _at_given(logits, given, largest, log_sum)
        return TokenLogprobs(
            chosen=(at_token - largest) - log_sum,
            rank=rank,
            top_ids=top_ids,
            top=top,
            given=at_given,
            given_rank=given_rank,
        )


def _rank(logits: Array, value: Array, token: Array) -> Int[Array, " n"]:
    return 1 + jnp.sum(precedes(logits, value, token), axis=1, dtype=jnp.int32)


def _at_given(
    logits: Float[Array, "n V"], given: GivenIds, largest: Array, log_sum: Array
) -> tuple[Float[Array, "n G"], Int[Array, "n G"]]:
    """Logprobs and ranks of the given ids; the work follows their number."""
    rows = jnp.arange(logits.shape[0], dtype=jnp.int32)

    def put(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        logprobs, ranks = found
        tokens = given.ids[:, index]
        value = logits[rows, tokens]
        return (
            logprobs.at[:, index].set((value - largest) - log_sum),
            ranks.at[:, index].set(_rank(logits, value, tokens)),
        )

    shape = given.ids.shape
    nothing = (jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32))
    if shape[1] == 0:
        return nothing
    return jax.lax.fori_loop(0, given.count, put, nothing)


def score_tokens(
    unembed: Callable[[Array, Array], Array],
    hidden: Float[Array, "T D"],
    targets: Int[Array, " T"],
    wanted: Int[Array, " T"],
    given: Callable[[Array, Array], GivenIds] | None = None,
    *,
    chunk: int = 64,
    max_k: int = MAX_LOGPROBS,
) -> TokenLogprobs:
    """`token_logprobs` of each target given its hidden state, `chunk` rows of logits at a time.

    Args:
        unembed: hidden states `[chunk, D]`, and which ones they are, int32 `[chunk]`, to logits
            `[chunk, V]`.
        targets: the token that follows each hidden state.
        wanted: alternatives wanted; 0: chosen and rank; -1: nothing. A chunk where all are -1 is
            not even unembedded, and holds zeros.
        given: the given ids of a chunk, by `index` and which of its positions are wanted (bool).
    """
    count = hidden.shape[0]
    padding = -count % chunk
    parts = (
        jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, chunk, hidden.shape[1]),
        jnp.pad(jnp.arange(count), (0, padding)).reshape(-1, chunk),
        jnp.pad(targets, (0, padding)).reshape(-1, chunk),
        jnp.pad(wanted, (0, padding), constant_values=-1).reshape(-1, chunk),
    )

    def score(part: tuple[Array, Array, Array, Array]) -> TokenLogprobs:
        hidden_cD, index_c, targets_c, wanted_c = part
        k = jnp.max(wanted_c)

        def scored() -> TokenLogprobs:
            logits = unembed(hidden_cD, index_c)
            ids = None if given is None else given(index_c, wanted_c >= 0)
            return token_logprobs(logits, targets_c, k, ids, max_k)

        empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(scored))
        return jax.lax.cond(k >= 0, scored, lambda: empty)

    chunks = jax.lax.map(score, parts)
    return jax.tree.map(lambda a: a.reshape(count + padding, *a.shape[2:])[:count], chunks)


def _normaliser(logits: Float[Array, "n V"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Each row's largest logit, and the log of its sum of `exp(logit - largest)`.

    In tiles of a fixed number of rows: XLA chooses the order of a sum by the array's shape, so
    that only a fixed shape gives a row the same bits in every batch.
    """
    count, vocab = logits.shape

    def normalise(tile: Float[Array, "tile V"]) -> tuple[Array, Array]:
        largest = jnp.max(tile, axis=1)
        return largest, jnp.log(jnp.sum(jnp.exp(tile - largest[:, None]), axis=1))

    tiles = jnp.pad(logits, ((0, -count % TILE), (0, 0))).reshape(-1, TILE, vocab)
    largest, log_sum = jax.lax.map(normalise, tiles)
    return largest.reshape(-1)[:count], log_sum.reshape(-1)[:count]
