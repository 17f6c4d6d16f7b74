"""Several decode steps as one program: the host dispatches and reads once for all of them.

Each step samples a token a row and writes it into the device's own history, where the next step
reads it: nothing in between needs the host, unless it is to look at every token.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ferrum_jax.attention import BindAttention
from ferrum_jax.models import Params
from ferrum_jax.runtime.step import run_step
from ferrum_jax.sampler import join_state, split_state
from ferrum_jax.types import (
    KVCache,
    ModelConfig,
    ProcessorLane,
    SamplingState,
    StepBatch,
    StepOutput,
    StepShape,
    Taps,
)


def run_decode_steps(
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
    """As many steps of `shape` as the row that samples most wants; a row that has all its tokens
    is padding from there on. The output holds `shape.steps` times what one step's does, zeros
    where no step ran.
    """
    assert batch.steps is not None
    run = partial(run_step, config=config, shape=replace(shape, steps=1), bind=bind)
    moving, settings = split_state(sampling)

    def once(index: Array | int, cache: KVCache, moving: SamplingState) -> tuple[Any, Any, Any]:
        state = join_state(moving, settings)
        cache, output = run(params, cache, _batch_of_step(batch, index, state), state, taps, lanes)
        moving, _ = split_state(output.sampling)
        return cache, moving, replace(output, sampling=None)

    _, _, result = jax.eval_shape(partial(once, 0), cache, moving)
    found = jax.tree.map(lambda x: jnp.zeros((shape.steps, *x.shape), x.dtype), result)

    def step(index: Array, carried: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        cache, moving, found = carried
        cache, moving, output = once(index, cache, moving)
        put = lambda many, one: many.at[index].set(one)  # noqa: E731
        return cache, moving, jax.tree.map(put, found, output)

    cache, moving, found = jax.lax.fori_loop(0, jnp.max(batch.steps), step, (cache, moving, found))
    output = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
    return cache, replace(output, sampling=join_state(moving, settings), steps=shape.steps)


def _batch_of_step(batch: StepBatch, index: Array | int, sampling: SamplingState) -> StepBatch:
    """The batch `index` steps on: one token further, without the rows that have all of theirs."""
    assert batch.steps is not None
    goes_on = index < batch.steps
    starts = jnp.cumsum(goes_on.astype(jnp.int32))
    return StepBatch(
        slots=jnp.where(goes_on, batch.slots, sampling.history.shape[0] - 1),
        query_starts=jnp.concatenate([jnp.zeros(1, jnp.int32), starts]),
        context_lens=jnp.where(goes_on, batch.context_lens + index, 0),
        samples=batch.samples & goes_on,
        block_tables=batch.block_tables,
    )
