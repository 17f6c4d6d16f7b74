"""The partial results of a decode's splits become one, on a Hopper GPU.

A program takes one token and query head, and of its splits those that hold keys it sees: however
long a table may grow, no other is read. They are merged by log-sum-exp in fp32, in the order of the
keys.

Dimension key: X tokens, S splits, B groups of Q query heads (G of which are real), V value head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.mosaic_online import kernel_of
from pallas_kernels.mosaic_pages import Plan, plgpu
from pallas_kernels.online import LOG2_E, MASKED, div
from pallas_kernels.rules import first_key

SMALLEST_COPY = 8
"""Elements that hold a log-sum-exp, to be copied."""


def merge_splits(
    plan: Plan,
    parts: jax.Array,
    lse: jax.Array,
    positions: jax.Array,
    sinks: jax.Array | None,
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """Results `[X, B, G, V]` and log-sum-exp `[X, B, G]`, fp32; of no token anything.

    Args:
        parts, lse: `[X, S, B, Q, V]` and `[X, S, B, Q]`, the latter in log2; fp32.
        positions: int32 `[X]`, each token's; below 0 where there is none.
        sinks: fp32 `[B, G]`.
    """
    (X, _, B, _, V), G = parts.shape, plan.group
    shapes = (X, B, G, V), (X, B, G, SMALLEST_COPY)
    kernel = kernel_of(
        _merge_head,
        plan,
        {"query": G, "head": B, "token": X},
        tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes),
        [plgpu.SMEM(shape[-1:], jnp.float32) for shape in shapes],
        threads=1,
        interpret=interpret,
    )
    given = () if sinks is None else (sinks,)
    merged, merged_lse = kernel(parts, lse, positions, *given)
    return merged, merged_lse[..., 0]


def _merge_head(plan: Plan, parts_ref: Any, lse_ref: Any, positions_ref: Any, *refs: Any) -> None:
    """One token and query head."""
    *sinks_ref, out_ref, out_lse_ref, out_smem, lse_smem = refs
    query, head, index = map(lax.axis_index, ("query", "head", "token"))
    position, split_keys = positions_ref[index], plan.sizes.split_keys
    of_lane = plgpu.Layout.WGMMA.reduce(0)

    def add(split: jax.Array, seen: tuple) -> tuple:
        before, total, merged = seen
        lse = lse_ref[index, split, head, query]
        part = plgpu.load(parts_ref.at[index, split, head, query], layout=of_lane, optimized=False)
        top = jnp.maximum(before, lse)
        shrink, weight = jnp.exp2(before - top), jnp.exp2(lse - top)
        return top, total * shrink + weight, merged * shrink + part * weight

    @pl.when(position >= 0)
    def _() -> None:
        top, total = jnp.float32(MASKED), jnp.float32(0)
        if sinks_ref:
            top, total = sinks_ref[0][head, query] * LOG2_E, jnp.float32(1)
        zeros = plgpu.layout_cast(jnp.zeros(out_smem.shape, jnp.float32), of_lane)
        first = div(first_key(position, plan.rules), split_keys)
        last = div(position, split_keys)
        top, total, merged = lax.fori_loop(first, last + 1, add, (top, total, zeros))
        out_smem[...] = merged / total
        lse = jnp.full(lse_smem.shape, (top + jnp.log2(total)) / LOG2_E)
        lse_smem[...] = plgpu.layout_cast(lse, of_lane)
        plgpu.commit_smem()
        at = (index, head, query)
        plgpu.copy_smem_to_gmem(out_smem, out_ref.at[at])
        plgpu.copy_smem_to_gmem(lse_smem, out_lse_ref.at[at])
        plgpu.wait_smem_to_gmem(0)
