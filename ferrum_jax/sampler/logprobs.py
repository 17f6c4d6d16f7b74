"""Raw log-probabilities of given tokens, their rank and the likeliest alternatives.

Dimension key: n positions (T tokens of a prompt), V vocabulary, K alternatives, D model.
"""

from __future__ import annotations

from collections.abc import Callable

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


def token_logprobs(
    logits: Float[Array, "n V"],
    tokens: Int[Array, " n"],
    k: Int[Array, ""],
    max_k: int = MAX_LOGPROBS,
) -> TokenLogprobs:
    """Log-softmax in fp32 of the logits as given, at `tokens` and at the largest.

    A token's logprob has the same bits whatever the number of rows and its place among them.

    Args:
        k: alternatives wanted, may be traced. Below 0 ranks are not computed (0 in their place);
            below 1 neither are alternatives (ids 0, logprobs 0). `chosen` always is.
        max_k: alternatives returned, K = min(max_k, V); ties go to the lowest id.
    """
    with jax.named_scope("logprobs"):
        logits = logits.astype(jnp.float32)
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
            k >= 0,
            lambda: 1 + jnp.sum(precedes(logits, at_token, tokens), axis=1, dtype=jnp.int32),
            lambda: jnp.zeros_like(rows),
        )
        top_ids, top = jax.lax.cond(k > 0, alternatives, no_alternatives)
        return TokenLogprobs(
            chosen=(at_token - largest) - log_sum, rank=rank, top_ids=top_ids, top=top
        )


def score_tokens(
    unembed: Callable[[Array, Array], Array],
    hidden: Float[Array, "T D"],
    targets: Int[Array, " T"],
    wanted: Int[Array, " T"],
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
            return token_logprobs(unembed(hidden_cD, index_c), targets_c, k, max_k)

        empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(scored))
        return jax.lax.cond(k >= 0, scored, lambda: empty)

    chunks = jax.lax.map(score, parts)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], chunks)


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
