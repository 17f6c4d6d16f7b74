"""A decode step of a model with random weights, made on the device, and its time."""

import statistics
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from config import Plan, Sizes

from ferrum_jax.attention import choose_attention, gpu_attention
from ferrum_jax.cli.bench_costs import decode_cost
from ferrum_jax.kv import make_cache
from ferrum_jax.models.shapes import flatten_shapes, unflatten
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.runtime.step import run_step
from ferrum_jax.sampler import make_sampling_state
from ferrum_jax.types import DataType, KVCacheConfig, StepBatch, StepShape, Taps


def random_params(sizes: Sizes) -> Any:
    """Weights of a small standard deviation in bfloat16: their values do not matter here."""
    config = sizes.config()
    shapes = flatten_shapes(config)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    draw = jax.jit(
        lambda key, shape: 0.02 * jax.random.normal(key, shape, jnp.bfloat16), static_argnums=1
    )
    arrays = {
        name: draw(key, tuple(shape))
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return unflatten(config, arrays)


def step_row(sizes: Sizes, params: Any, batch: int, attention: str, plan: Plan) -> dict[str, Any]:
    """Seconds of a step in which each of `batch` sequences decodes a token, and its cost."""
    config, pages = sizes.config(), -(-(plan.context + 1) // plan.page)
    kv = KVCacheConfig(batch * pages + 1, plan.page, DataType.BFLOAT16)
    if attention == "triton" and plan.interpret:
        bind = gpu_attention(interpret=True)
    else:
        bind = choose_attention(attention, device_info(), config, kv)
    order = np.random.default_rng(0).permutation(np.arange(1, batch * pages + 1))
    given = StepBatch(
        slots=jnp.arange(batch, dtype=jnp.int32),
        query_starts=jnp.arange(batch + 1, dtype=jnp.int32),
        context_lens=jnp.full(batch, plan.context, jnp.int32),
        samples=jnp.ones(batch, bool),
        block_tables=jnp.asarray(order.reshape(batch, pages), jnp.int32),
    )
    cache = make_cache(config, kv)
    sampling = make_sampling_state(batch, plan.context + 8, config.vocab_size)
    step = jax.jit(
        partial(run_step, config=config, shape=StepShape(batch, batch), bind=bind),
        donate_argnums=(1, 3),
    )
    begin = time.perf_counter()
    program = step.lower(params, cache, given, sampling, Taps()).compile()
    compiled = time.perf_counter() - begin
    taken = []
    for _ in range(plan.repeats + 1):
        begin = time.perf_counter()
        for _ in range(plan.steps):
            cache, output = program(params, cache, given, sampling, Taps())
            sampling = output.sampling
        jax.block_until_ready(cache)
        taken.append((time.perf_counter() - begin) / plan.steps)
    cost = decode_cost(config, batch, plan.context, 2, DataType.BFLOAT16)
    memory = program.memory_analysis()
    return {
        "seconds": statistics.median(taken[1:]),
        "compile_seconds": compiled,
        "bytes": cost.bytes,
        "flops": cost.flops,
        "temporary_bytes": None if memory is None else memory.temp_size_in_bytes,
    }
