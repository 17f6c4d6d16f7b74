"""The one jitted function of serving: forward, sampling and logprobs of one step."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ferrum_jax.attention import BindAttention, PagedMeta, paged_meta
from ferrum_jax.models import Params, forward_capture, unembed
from ferrum_jax.sampler import (
    num_logprobs_wanted,
    rows_failed,
    sample,
    score_tokens,
    token_logprobs,
)
from ferrum_jax.types import (
    KVCache,
    ModelConfig,
    Place,
    SamplingState,
    StepBatch,
    StepOutput,
    StepShape,
    Taps,
    TokenLogprobs,
)


def run_step(
    params: Params,
    cache: KVCache,
    batch: StepBatch,
    sampling: SamplingState,
    taps: Taps,
    *,
    config: ModelConfig,
    shape: StepShape,
    bind: BindAttention,
) -> tuple[KVCache, StepOutput]:
    """One step of `shape`: the next cache, and what the host may read when it wants to.

    The input tokens are read from the device's own history, where the sampled ones are written:
    the next step can be dispatched before the host has seen them.
    """
    meta = paged_meta(batch, shape.tokens, cache.page_size)
    slots_T = batch.slots[meta.rows]
    tokens_T = sampling.history[slots_T, meta.positions]
    taps = placed_in_step(taps, slots_T, meta.positions, sampling)
    hidden_TD, next_cache, captured = forward_capture(
        params, tokens_T, meta.positions, cache, config=config, attend=bind(meta), taps=taps
    )
    assert next_cache is not None
    last_R = jnp.maximum(batch.query_starts[1:] - 1, 0)
    logits_RV = unembed(params, hidden_TD[last_R], config, taps=of_tokens(taps, last_R))
    with jax.named_scope("sample"):
        failed_R = rows_failed(logits_RV) & (batch.context_lens > 0)
        tokens_R = sample(logits_RV, sampling, batch.slots, batch.context_lens, batch.samples)
        wanted = num_logprobs_wanted(sampling, batch.slots, batch.samples)
        logprobs = logprobs_if_wanted(logits_RV, tokens_R, wanted)
    prompt = None
    if shape.score:
        with jax.named_scope("score"):
            prompt = _score_prompts(params, hidden_TD, slots_T, meta, sampling, config, taps)
    sampling = replace(sampling, history=append_sampled(sampling.history, batch, tokens_R))
    return next_cache, StepOutput(
        tokens=tokens_R,
        logprobs=logprobs,
        failed=failed_R,
        prompt=prompt,
        sampling=sampling,
        captured=captured,
    )


def placed_in_step(taps: Taps, slots_T: Array, positions_T: Array, sampling: SamplingState) -> Taps:
    """The taps with the places of a step's tokens: a request's row is its slot."""
    if not taps.edits:
        return taps
    place = Place(slots_T, positions_T, sampling.prompt_lens[slots_T])
    return taps.replace(place=place)  # type: ignore[attr-defined]


def of_tokens(taps: Taps, index: Array) -> Taps:
    """The taps for some of the tokens."""
    if taps.place is None:
        return taps
    return taps.replace(place=taps.place.take(index))  # type: ignore[attr-defined]


def logprobs_if_wanted(
    logits_RV: Float[Array, "R V"], tokens_R: Int[Array, " R"], wanted: Int[Array, ""]
) -> TokenLogprobs:
    """Logprobs of the sampled tokens; zeros, at no cost, where no row asks for them."""

    def computed() -> TokenLogprobs:
        return token_logprobs(logits_RV, tokens_R, wanted)

    zeros = jax.tree_util.tree_map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(computed))
    return jax.lax.cond(wanted >= 0, computed, lambda: zeros)


def append_sampled(
    history: Int[Array, "slots L"], batch: StepBatch, tokens_R: Int[Array, " R"]
) -> Int[Array, "slots L"]:
    """Each sampled token at the end of its history; rows that sample none write to padding's."""
    padding = history.shape[0] - 1
    return history.at[jnp.where(batch.samples, batch.slots, padding), batch.context_lens].set(
        tokens_R
    )


def _score_prompts(
    params: Params,
    hidden_TD: Array,
    slots_T: Array,
    meta: PagedMeta,
    sampling: SamplingState,
    config: ModelConfig,
    taps: Taps,
) -> TokenLogprobs:
    """Logprobs of every token's successor; of a sequence's last token they mean nothing."""
    targets_T = sampling.history[slots_T, meta.positions + 1]
    wanted_T = jnp.where(meta.valid, sampling.num_prompt_logprobs[slots_T], -1)
    return score_tokens(
        lambda rows, index: unembed(params, rows, config, taps=of_tokens(taps, index)),
        hidden_TD,
        targets_T,
        wanted_T,
    )
