"""The one jitted function of serving: forward, sampling and logprobs of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.attention import BindAttention, PagedMeta, layout_in_tiles, paged_meta
from ferrum_jax.models import Params, forward_capture, unembed
from ferrum_jax.sampler import (
    Sampled,
    given_ids,
    num_logprobs_wanted,
    process_logits,
    rows_failed,
    sample,
    score_tokens,
    token_logprobs,
)
from ferrum_jax.types import (
    KVCache,
    ModelConfig,
    Place,
    ProcessorLane,
    RaggedLayout,
    SamplingState,
    StepBatch,
    StepOutput,
    StepShape,
    Taps,
    TokenLogprobs,
)

FEW_PLACES = 8
"""Places that are unembedded by themselves in a step that could sample at more."""


def run_step(
    params: Params,
    cache: KVCache,
    batch: StepBatch,
    sampling: SamplingState,
    taps: Taps,
    lanes: tuple[ProcessorLane, ...] = (),
    *,
    config: ModelConfig,
    shape: StepShape,
    bind: BindAttention,
) -> tuple[KVCache, StepOutput]:
    """One step of `shape`: the next cache, and what the host may read when it wants to.

    The input tokens are read from the device's own history, where the sampled ones are written:
    the next step can be dispatched before the host has seen them.
    """
    sampling = write_drafts(sampling, batch)
    places = sampled_places(batch)
    meta = paged_meta(batch, shape.tokens, cache.page_size)
    slots_T = batch.slots[meta.rows]
    tokens_T = sampling.history[slots_T, meta.positions]
    taps = placed_in_step(taps, slots_T, meta.positions, sampling)
    layout = ragged_layout(meta, batch, sampling) if config.is_recurrent else None
    hidden_TD, next_cache, captured = forward_capture(
        params,
        tokens_T,
        meta.positions,
        cache,
        config=config,
        attend=bind(meta),
        taps=taps,
        layout=layout,
    )
    assert next_cache is not None
    few_first = not shape.decodes and len(places.tokens) > FEW_PLACES
    if few_first:
        order_N = jnp.argsort(~places.active, stable=True)
        places, back_N = places.take(order_N), jnp.argsort(order_N)
    hidden_ND = hidden_TD[places.tokens]
    logits_NV = _logits(params, hidden_ND, places, config, taps, few_first=few_first)
    slots, lengths, active = places.slots, places.lengths, places.active
    with jax.named_scope("sample"):
        broken_N = ~jnp.all(jnp.isfinite(hidden_ND), axis=1)
        failed_N = jnp.where(active, rows_failed(logits_NV), broken_N) & (lengths > 0)
        sampled = sample(
            logits_NV, sampling, slots, lengths, active, lanes, processes=shape.processes
        )
        wanted = num_logprobs_wanted(sampling, slots, active)
        logprobs = logprobs_if_wanted(
            logits_NV, sampled, sampled.tokens, sampling, slots, active, wanted
        )
    prompt = None
    if shape.score:
        with jax.named_scope("score"):
            prompt = _score_prompts(
                params,
                hidden_TD,
                slots_T,
                meta,
                sampling,
                config,
                taps,
                partial(process_logits, lanes=lanes, processes=shape.processes),
            )
    found = sampled.tokens, logprobs, failed_N, sampled.stuck, sampled.mirostat_mu
    if few_first:
        found = jax.tree.map(lambda x: x[back_N], found)
    tokens, logprobs, failed, stuck, mirostat_mu = found
    return next_cache, StepOutput(
        tokens=tokens,
        logprobs=logprobs,
        failed=failed,
        stuck=stuck,
        prompt=prompt,
        sampling=after_sampling(sampling, places, sampled.tokens, sampled.mirostat_mu),
        mirostat_mu=mirostat_mu,
        captured=captured,
        draft_len=batch.draft_len,
    )


class SampledPlaces(NamedTuple):
    """Where a step samples: behind each row's last known token and each token of its draft."""

    tokens: Int[Array, " N"]
    """index into the step's tokens"""
    slots: Int[Array, " N"]
    lengths: Int[Array, " N"]
    """tokens that precede the sampled one"""
    active: Bool[Array, " N"]
    """whether a token is wanted there"""

    def take(self, index: Int[Array, " N"]) -> SampledPlaces:
        """Some of them."""
        return SampledPlaces(*(x[index] for x in self))


def sampled_places(batch: StepBatch) -> SampledPlaces:
    """The places of a step, row after row, 1 + D each."""
    last_R = batch.query_starts[1:] - 1
    if batch.drafts is None:
        tokens = jnp.maximum(last_R, 0)
        return SampledPlaces(tokens, batch.slots, batch.context_lens, batch.samples)
    assert batch.num_drafts is not None
    ahead_RD = jnp.arange(1 + batch.draft_len, dtype=jnp.int32)[None] - batch.num_drafts[:, None]
    is_there = ahead_RD <= 0
    ahead_RD = jnp.minimum(ahead_RD, 0)
    return SampledPlaces(
        tokens=jnp.maximum(last_R[:, None] + ahead_RD, 0).reshape(-1),
        slots=jnp.repeat(batch.slots, 1 + batch.draft_len),
        lengths=jnp.maximum(batch.context_lens[:, None] + ahead_RD, 0).reshape(-1),
        active=(is_there & batch.samples[:, None]).reshape(-1),
    )


def write_drafts(sampling: SamplingState, batch: StepBatch) -> SamplingState:
    """Each row's draft in its history, behind the known tokens; unused ones in padding's."""
    if batch.drafts is None:
        return sampling
    assert batch.num_drafts is not None
    index = jnp.arange(batch.draft_len, dtype=jnp.int32)[None]
    padding, longest = sampling.history.shape[0] - 1, sampling.history.shape[1] - 1
    slots_RD = jnp.where(index < batch.num_drafts[:, None], batch.slots[:, None], padding)
    known_R = batch.context_lens - batch.num_drafts
    at_RD = jnp.minimum(known_R[:, None] + index, longest)
    return replace(sampling, history=sampling.history.at[slots_RD, at_RD].set(batch.drafts))


def ragged_layout(meta: PagedMeta, batch: StepBatch, sampling: SamplingState) -> RaggedLayout:
    """The step's tiles, as recurrent layers go along them; padding has the padding's slot."""
    tiles = layout_in_tiles(meta, batch)
    valid = tiles.positions >= 0
    padding = sampling.history.shape[0] - 1
    # Of tiles of one token each is another sequence's, unless a sequence runs several.
    lengths = jnp.diff(batch.query_starts)
    return RaggedLayout(
        tokens=tiles.tokens,
        valid=valid,
        starts=tiles.positions == 0,
        slots=jnp.where(valid[:, 0], batch.slots[tiles.rows], padding),
        tile_of_token=tiles.of_token,
        apart=jnp.max(lengths) <= 1 if tiles.size == 1 else None,
    )


def _logits(
    params: Params,
    hidden_ND: Float[Array, "N D"],
    places: SampledPlaces,
    config: ModelConfig,
    taps: Taps,
    *,
    few_first: bool,
) -> Float[Array, "N V"]:
    """The logits of the active places, and perhaps of the others.

    Args:
        few_first: the active places stand first, and only those are unembedded where they are few:
            of a step that could take many sequences most are not there, or within their prompts.
    """

    count = len(places.tokens)

    def of_first(some: int) -> Array:
        taps_N = of_tokens(taps, places.tokens[:some])
        logits = unembed(params, hidden_ND[:some], config, taps=taps_N)
        return jnp.pad(logits, ((0, count - some), (0, 0)))

    if not few_first:
        return of_first(count)
    are_few = ~jnp.any(places.active[FEW_PLACES:])
    return jax.lax.cond(are_few, lambda: of_first(FEW_PLACES), lambda: of_first(count))


def placed_in_step(taps: Taps, slots_T: Array, positions_T: Array, sampling: SamplingState) -> Taps:
    """The taps with the places of a step's tokens: a request's row is its slot."""
    if not taps.acts:
        return taps
    place = Place(slots_T, positions_T, sampling.prompt_lens[slots_T])
    return taps.replace(place=place)  # type: ignore[attr-defined]


def of_tokens(taps: Taps, index: Array) -> Taps:
    """The taps for some of the tokens."""
    if taps.place is None:
        return taps
    return taps.replace(place=taps.place.take(index))  # type: ignore[attr-defined]


def logprobs_if_wanted(
    logits_RV: Float[Array, "R V"],
    sampled: Sampled,
    tokens_R: Int[Array, " R"],
    sampling: SamplingState,
    slots_R: Int[Array, " R"],
    active_R: Bool[Array, " R"],
    wanted: Int[Array, ""],
) -> TokenLogprobs:
    """Logprobs of tokens, raw or processed; zeros, at no cost, where no row asks for them."""

    def computed() -> TokenLogprobs:
        processed_R = sampling.processed_logprobs[slots_R]
        source_RV = jnp.where(processed_R[:, None], sampled.processed, logits_RV)
        given = given_ids(sampling, slots_R, active_R)
        return token_logprobs(source_RV, tokens_R, wanted, given)

    zeros = jax.tree_util.tree_map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(computed))
    return jax.lax.cond(wanted >= 0, computed, lambda: zeros)


def after_sampling(
    sampling: SamplingState,
    places: SampledPlaces,
    tokens_N: Int[Array, " N"],
    mu_N: Float[Array, " N"],
) -> SamplingState:
    """Each sampled token at its place in the history; where none is wanted, in padding's.

    Behind a draft's token that was not sampled they mean nothing, and are overwritten when the
    sequence gets there.
    """
    padding = sampling.history.shape[0] - 1
    slots = jnp.where(places.active, places.slots, padding)
    history = sampling.history.at[slots, places.lengths].set(tokens_N)
    mu = sampling.mirostat_mu.at[slots].set(jnp.where(places.active, mu_N, 0.0))
    return replace(sampling, history=history, mirostat_mu=mu)


def _score_prompts(
    params: Params,
    hidden_TD: Array,
    slots_T: Array,
    meta: PagedMeta,
    sampling: SamplingState,
    config: ModelConfig,
    taps: Taps,
    process: Callable[..., Array],
) -> TokenLogprobs:
    """Logprobs of every token's successor; of a sequence's last token they mean nothing."""
    lengths_T = meta.positions + 1
    targets_T = sampling.history[slots_T, lengths_T]
    wanted_T = jnp.where(meta.valid, sampling.num_prompt_logprobs[slots_T], -1)
    processed_T = sampling.processed_logprobs[slots_T] & (wanted_T >= 0)
    process_T = jnp.where(processed_T, slots_T, sampling.history.shape[0] - 1)

    def logits_of(rows: Array, index: Array) -> Array:
        logits = unembed(params, rows, config, taps=of_tokens(taps, index))
        return process(logits, sampling, process_T[index], lengths_T[index])

    return score_tokens(
        logits_of,
        hidden_TD,
        targets_T,
        wanted_T,
        lambda index, wanted: given_ids(sampling, slots_T[index], wanted),
    )
