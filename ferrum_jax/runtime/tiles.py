"""The batch-invariant step: every token runs as a row of one fixed shape.

XLA chooses the order of a sum by the shapes of its operands, so the same token may get other bits
in a batch of another size. Within one shape rows do not see each other. So the step is cut into
tiles of `TILE_ROWS` tokens, and a loop, whose number of turns is data, runs each tile through the
whole model: embedding, layers, cache, logits, sampling and logprobs. A token of a prefill chunk is
a row like one that is decoded or scored. In attention up to `QUERIES` tokens that follow one
another in a sequence read their keys together, each masked by its own position; they too are rows
of one shape. Hence nothing that a token is batched with, and no cut of its prompt, can change a
bit of it.

What is fixed by construction: the shape of every product and sum; the number of keys in a block of
attention, and the order of the blocks. What is relied on, and tested: that XLA gives a row of one
shape the same bits wherever the row stands.

Dimension key: T tokens of the step, R rows of the step (sequences), X tokens of a tile.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ferrum_jax.attention import BindAttention, paged_meta
from ferrum_jax.models import Params, forward_capture, unembed
from ferrum_jax.runtime.step import (
    after_sampling,
    logprobs_if_wanted,
    placed_in_step,
    sampled_places,
    write_drafts,
)
from ferrum_jax.sampler import num_logprobs_wanted, rows_failed, sample
from ferrum_jax.types import (
    KVCache,
    ModelConfig,
    ProcessorLane,
    RaggedLayout,
    SamplingState,
    StepBatch,
    StepOutput,
    StepShape,
    Taps,
    TokenLogprobs,
)
from ferrum_jax.types.sampling import MAX_LOGPROB_TOKEN_IDS, MAX_LOGPROBS

TILE_ROWS = 16
"""Tokens of a tile. Fewer make prefill dearer, more make decodes of few sequences dearer."""
QUERIES, GROUP = 4, 4
"""Tokens of one sequence that share a read of its keys, and how many such lots are read together.
More queries make prefill cheaper and decoding dearer."""


class TileResult(NamedTuple):
    """What each token of a tile brings; `logprobs` are of the token after it."""

    tokens: Array
    failed: Array
    stuck: Array
    mirostat_mu: Array
    logprobs: TokenLogprobs


def run_tiled_step(
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
    """`run_step` in tiles: the same arguments and results, and the work follows the tokens.

    `StepOutput.prompt` is always there; what no row asks for is zero.
    """
    # At least two tiles: of a lone one XLA sees that its slice is the whole, drops the slice, and
    # fuses what is left in another way.
    padded = max(2, -(-shape.tokens // TILE_ROWS)) * TILE_ROWS
    padding_slot = sampling.history.shape[0] - 1
    sampling, places = write_drafts(sampling, batch), sampled_places(batch)
    tokens = _one_row_each(batch, padded, padding_slot)
    scored_T = (sampling.num_prompt_logprobs[tokens.slots] >= 0) & (
        tokens.context_lens < sampling.prompt_lens[tokens.slots]
    )

    def tile_at(first: Array | int, cache: KVCache) -> tuple:
        cut = partial(jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=TILE_ROWS)
        # The barriers keep what depends on the step's own sizes out of the tile's fusions.
        tile, scored_X = jax.lax.optimization_barrier(jax.tree.map(cut, (tokens, scored_T)))
        cache, result = _tile(
            params, cache, tile, scored_X, sampling, taps, lanes, config=config, bind=bind
        )
        return cache, jax.lax.optimization_barrier(result)

    def run(index: Array, carry: tuple) -> tuple:
        cache, results = carry
        first = index * TILE_ROWS
        cache, result = tile_at(first, cache)
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=0)
        return cache, jax.tree.map(put, results, result)

    num_tiles = -(-batch.query_starts[-1] // TILE_ROWS)
    _, (_, shapes) = jax.eval_shape(partial(tile_at, 0), cache)
    unseen = jax.tree.map(lambda x: jnp.zeros((padded, *x.shape[1:]), x.dtype), shapes)
    start = (cache, (_nothing(padded, min(MAX_LOGPROBS, config.vocab_size)), unseen))
    cache, (result, captured) = jax.lax.fori_loop(0, num_tiles, run, start)
    found = jax.tree.map(lambda x: x[places.tokens], result)
    return cache, StepOutput(
        tokens=found.tokens,
        logprobs=found.logprobs,
        failed=found.failed & (places.lengths > 0),
        stuck=found.stuck & places.active,
        prompt=result.logprobs,
        captured=captured,
        sampling=after_sampling(sampling, places, found.tokens, found.mirostat_mu),
        mirostat_mu=found.mirostat_mu,
        draft_len=batch.draft_len,
    )


def _one_row_each(batch: StepBatch, num_tokens: int, padding_slot: int) -> StepBatch:
    """The step's tokens as rows of one token each; padding has the padding's slot, context 0."""
    num_rows = batch.slots.shape[0]
    index = jnp.arange(num_tokens, dtype=jnp.int32)
    rows = jnp.searchsorted(batch.query_starts[1:], index, side="right").astype(jnp.int32)
    valid = rows < num_rows
    rows = jnp.minimum(rows, num_rows - 1)
    behind = batch.query_starts[rows + 1] - 1 - index
    num_drafts = 0 if batch.num_drafts is None else batch.num_drafts[rows]
    return StepBatch(
        slots=jnp.where(valid, batch.slots[rows], padding_slot),
        query_starts=index,
        context_lens=jnp.where(valid, batch.context_lens[rows] - behind, 0),
        samples=valid & (behind <= num_drafts) & batch.samples[rows],
        block_tables=jnp.where(valid[:, None], batch.block_tables[rows], 0),
    )


def _runs(tile: StepBatch) -> StepBatch:
    """A tile's rows with those joined that follow one another in a sequence.

    Attention reads the keys of a run once for `QUERIES` of its tokens.
    """
    valid_X = tile.context_lens > 0
    follows = (tile.slots[1:] == tile.slots[:-1]) & (
        tile.context_lens[1:] == tile.context_lens[:-1] + 1
    )
    starts_run_X = valid_X & jnp.concatenate([jnp.ones(1, bool), ~follows])
    run_X = jnp.where(valid_X, jnp.cumsum(starts_run_X) - 1, TILE_ROWS)
    starts = jnp.searchsorted(run_X, jnp.arange(TILE_ROWS + 1), side="left").astype(jnp.int32)
    last = jnp.maximum(starts[1:] - 1, 0)
    return StepBatch(
        slots=tile.slots[last],
        query_starts=starts,
        context_lens=jnp.where(starts[1:] > starts[:-1], tile.context_lens[last], 0),
        samples=tile.samples[last],
        block_tables=tile.block_tables[last],
    )


def _tile(
    params: Params,
    cache: KVCache,
    tile: StepBatch,
    scored_X: Bool[Array, " X"],
    sampling: SamplingState,
    taps: Taps,
    lanes: tuple[ProcessorLane, ...],
    *,
    config: ModelConfig,
    bind: BindAttention,
) -> tuple[KVCache, tuple[TileResult, Any]]:
    """One tile through the model: its results and captures.

    The next token of a row is the sampled one, or the one that its prompt goes on with.
    """
    meta = paged_meta(_runs(tile), TILE_ROWS, cache.page_size, fixed=(QUERIES, GROUP))
    tokens_X = sampling.history[tile.slots, meta.positions]
    taps = placed_in_step(taps, tile.slots, meta.positions, sampling)
    hidden_XD, next_cache, captured = forward_capture(
        params,
        tokens_X,
        meta.positions,
        cache,
        config=config,
        attend=bind(meta),
        taps=taps,
        layout=_one_by_one(tile) if config.is_recurrent else None,
    )
    assert next_cache is not None

    def read_out() -> TileResult:
        logits_XV = unembed(params, hidden_XD, config, taps=taps)
        processed_X = sampling.processed_logprobs[tile.slots]
        active_X = tile.samples | (scored_X & processed_X)
        sampled = sample(logits_XV, sampling, tile.slots, tile.context_lens, active_X, lanes)
        following_X = sampling.history[tile.slots, tile.context_lens]
        wanted = jnp.maximum(
            num_logprobs_wanted(sampling, tile.slots, tile.samples),
            jnp.max(jnp.where(scored_X, sampling.num_prompt_logprobs[tile.slots], -1)),
        )
        target_X = jnp.where(tile.samples, sampled.tokens, following_X)
        logprobs = logprobs_if_wanted(
            logits_XV, sampled, target_X, sampling, tile.slots, tile.samples | scored_X, wanted
        )
        failed_X = rows_failed(logits_XV)
        return TileResult(sampled.tokens, failed_X, sampled.stuck, sampled.mirostat_mu, logprobs)

    nothing = _nothing(TILE_ROWS, min(MAX_LOGPROBS, config.vocab_size))
    wanted_here = jnp.any(tile.samples | scored_X)
    return next_cache, (jax.lax.cond(wanted_here, read_out, lambda: nothing), captured)


def _one_by_one(tile: StepBatch) -> RaggedLayout:
    """Recurrent layers take each token by itself, so that no cut of a prompt shows."""
    index = jnp.arange(TILE_ROWS)
    return RaggedLayout(
        tokens=index[:, None],
        valid=tile.context_lens[:, None] > 0,
        starts=tile.context_lens[:, None] == 1,
        slots=tile.slots,
        tile_of_token=index,
    )


def _nothing(count: int, num_alternatives: int) -> TileResult:
    """Results of `count` tokens that nobody asked for."""
    ids, alternatives = (count, MAX_LOGPROB_TOKEN_IDS), (count, num_alternatives)
    return TileResult(
        tokens=jnp.zeros(count, jnp.int32),
        failed=jnp.zeros(count, bool),
        stuck=jnp.zeros(count, bool),
        mirostat_mu=jnp.zeros(count, jnp.float32),
        logprobs=TokenLogprobs(
            chosen=jnp.zeros(count, jnp.float32),
            rank=jnp.zeros(count, jnp.int32),
            top_ids=jnp.zeros(alternatives, jnp.int32),
            top=jnp.zeros(alternatives, jnp.float32),
            given=jnp.zeros(ids, jnp.float32),
            given_rank=jnp.zeros(ids, jnp.int32),
        ),
    )
