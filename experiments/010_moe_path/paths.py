"""The ways to multiply rows by the matrix of their expert, and their times."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from config import Plan

from ferrum_jax.models.grouped import group_rows, grouped_matmul, tile_size

Path = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def masked(rows: jax.Array, matrices: jax.Array, expert: jax.Array) -> jax.Array:
    """`jax.lax.ragged_dot`: on a CPU every row by every matrix."""
    sizes = jnp.bincount(expert, length=matrices.shape[0]).astype(jnp.int32)
    return jax.lax.ragged_dot(rows, matrices, sizes)


def gathered(rows: jax.Array, matrices: jax.Array, expert: jax.Array) -> jax.Array:
    """A copy of its matrix for every row."""
    return jnp.einsum("YD,YDF->YF", rows, matrices[expert])


def tiled(
    rows: jax.Array, matrices: jax.Array, expert: jax.Array, *, tile: int | None
) -> jax.Array:
    """Tiles of one expert's rows, one after the other."""
    return grouped_matmul(rows, matrices, group_rows(expert, matrices.shape[0], tile=tile))


def measured(plan: Plan) -> Iterator[dict]:
    """A record for every number of experts and of tokens."""
    for experts, each in plan.experts:
        for tokens in plan.tokens:
            yield _measure(plan, tokens, experts, each)


def _measure(plan: Plan, tokens: int, experts: int, each: int) -> dict:
    rng = np.random.default_rng(plan.seed)
    chosen = np.sort([e for _ in range(tokens) for e in rng.choice(experts, each, replace=False)])
    num_rows = len(chosen)
    arguments = (
        jnp.asarray(rng.standard_normal((num_rows, plan.inputs), np.float32)),
        jnp.asarray(rng.standard_normal((experts, plan.inputs, plan.outputs), np.float32)),
        jnp.asarray(chosen, jnp.int32),
    )
    paths = {name: jax.jit(path) for name, path in _paths(plan, num_rows, experts).items()}
    results = {name: np.asarray(path(*arguments)) for name, path in paths.items()}
    for name, result in results.items():
        np.testing.assert_allclose(result, results["chosen"], atol=1e-3, err_msg=name)
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(plan.turns):
        # In another order each time: a path pays for what the one before it left in the caches.
        for name in rng.permutation(list(paths)):
            start = time.perf_counter()
            paths[name](*arguments).block_until_ready()
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(times) for name, times in seconds.items()}
    return {
        "tokens": tokens,
        "experts": experts,
        "experts_per_token": each,
        "tile": tile_size(num_rows, experts),
        "milliseconds": {name: 1e3 * value for name, value in best.items()},
        "times_chosen": {name: value / best["chosen"] for name, value in best.items()},
        "medians": {name: 1e3 * float(np.median(times)) for name, times in seconds.items()},
        "largest_error": {
            name: float(np.abs(result - results["chosen"]).max())
            for name, result in results.items()
        },
    }


def _paths(plan: Plan, num_rows: int, experts: int) -> dict[str, Path]:
    paths: dict[str, Path] = {"chosen": partial(tiled, tile=None)}
    if 4 * experts * num_rows * plan.inputs < plan.largest:
        paths["ragged_dot"] = masked
    if 4 * num_rows * plan.inputs * plan.outputs < plan.largest:
        paths["gathered"] = gathered
    for tile in plan.tiles:
        tiles = min(num_rows, num_rows // tile + experts)
        if tile <= num_rows and 4 * tiles * tile * plan.outputs < plan.largest // 8:
            paths[f"tiles of {tile}"] = partial(tiled, tile=tile)
    return paths
