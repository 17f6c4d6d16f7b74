"""The online softmax over blocks of paged keys on a Hopper GPU, which both Mosaic kernels run.

The last warpgroup of a program copies pages into a ring of blocks in shared memory
(`mosaic_pages.py`). The others multiply (wgmma), 64 queries each, and keep the softmax. Scores are
in units of log2.

Dimension key: M queries of a warpgroup, C keys of a block, H head, V value head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.mosaic_pages import Plan, Ring, Span, plgpu
from pallas_kernels.online import LOG2_E, MASKED, rem
from pallas_kernels.tuning import MOSAIC_ROWS

REGISTERS_COPYING, REGISTERS_MULTIPLYING = 40, 232
REGISTERS_CONVERTING, REGISTERS_BESIDE_CONVERTING = 96, 200
"""Of each thread, by what its warpgroup does; 504 for the three that are at the same place."""


class Seen(NamedTuple):
    """The state of the softmax."""

    top: jax.Array
    """`[M]`: the largest score, in log2"""
    total: jax.Array
    """`[M]`: the sum of the weights over 2^top"""
    parts: tuple[jax.Array, ...]
    """the weighted sum of the values, lanes beside lanes"""


def kernel_of(
    body: Callable[..., None],
    plan: Plan,
    grid: dict[str, int],
    results: tuple[jax.ShapeDtypeStruct, ...],
    scratch: list[Any],
    *,
    threads: int | None = None,
    interpret: bool,
) -> Callable[..., Any]:
    """A kernel whose programs have the plan's warpgroups, or `threads` of them; the interpreter
    looks for races."""
    return plgpu.kernel(
        partial(body, plan),
        out_type=results,
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=threads or plan.compute + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=plgpu.InterpretGPUParams(detect_races=True) if interpret else None,
    )


def share_registers(plan: Plan, *, copying: bool) -> None:
    """Where there are three warpgroups; with two, each has as many registers as a thread can."""
    if plan.compute == 1:
        return
    if copying:
        few = REGISTERS_CONVERTING if plan.quantised else REGISTERS_COPYING
        plgpu.set_max_registers(few, action="decrease")
    else:
        many = REGISTERS_BESIDE_CONVERTING if plan.quantised else REGISTERS_MULTIPLYING
        plgpu.set_max_registers(many, action="increase")


def with_lanes(plan: Plan, warpgroup: Any, run: Callable[[list[Any]], None]) -> None:
    """Run what a warpgroup does with the lanes of the values that are its."""
    if len(plan.shares) == 1:
        run(plan.shares[0])
        return
    for index, lanes in enumerate(plan.shares):
        pl.when(warpgroup == index)(partial(run, lanes))


def empty(lanes: list[Any]) -> Seen:
    """No key seen yet."""
    of_row = plgpu.Layout.WGMMA.reduce(1)
    top = plgpu.layout_cast(jnp.full((MOSAIC_ROWS,), MASKED, jnp.float32), of_row)
    total = plgpu.layout_cast(jnp.zeros((MOSAIC_ROWS,), jnp.float32), of_row)
    zeros = [jnp.zeros((MOSAIC_ROWS, part.size), jnp.float32) for part in lanes]
    return Seen(top, total, tuple(plgpu.layout_cast(x, plgpu.Layout.WGMMA) for x in zeros))


class Team(NamedTuple):
    """The warpgroups that multiply, seen from one of them."""

    plan: Plan
    warpgroup: Any
    together: Any
    """A barrier at which all of them arrive."""

    def wait(self) -> None:
        """Go on when all are here."""
        if self.plan.compute > 1:
            plgpu.barrier_arrive(self.together)
            plgpu.barrier_wait(self.together)

    def alone(self, run: Callable[[], None]) -> None:
        """Run something in one of them; the others wait for that."""
        if self.plan.compute == 1:
            run()
        else:
            pl.when(self.warpgroup == 0)(run)
            self.wait()


class Worker(NamedTuple):
    """What a warpgroup that multiplies works with."""

    q: Any
    """`[M, H]` in shared memory, as is `weights`"""
    weights: Any
    """`[M, C]`, its own"""
    ring: Ring
    sees: Callable[[jax.Array], jax.Array]
    """`keys [M, C] -> bool [M, C]`: which of them a query sees"""
    team: Team
    lanes: list[Any]
    """of the values"""


def visit(plan: Plan, span: Span, worker: Worker, turn: jax.Array, seen: Seen) -> Seen:
    """The softmax with one more block of keys."""
    ring, C, slot = worker.ring, plan.sizes.block, rem(turn, plan.sizes.num_stages)
    begin = (span.first_block + turn) * C
    plgpu.barrier_wait(ring.ready.at[slot])
    values = ring.blocks[-1].at[slot]
    if not plan.quantised:

        @pl.when((begin < span.first) | (begin + C > span.stop))
        def _() -> None:
            worker.team.alone(partial(_clear, plan, span, begin, values))

    def score(acc: Any) -> jax.Array:
        plgpu.wgmma(acc, worker.q, ring.blocks[0].at[slot].transpose((1, 0)))
        return acc[...]

    scores = pl.run_scoped(score, plgpu.WGMMAAccumulatorRef((MOSAIC_ROWS, C), jnp.float32))
    if plan.quantised:
        scores = scores * _of_keys(ring.scales[0], slot, scores.shape)
    if plan.rules.soft_cap is None:
        scores = scores * (plan.rules.scale * LOG2_E)
    else:
        scores = jnp.tanh(scores * (plan.rules.scale / plan.rules.soft_cap))
        scores = scores * (plan.rules.soft_cap * LOG2_E)
    keys = plgpu.broadcasted_iota(jnp.int32, scores.shape, 1, layout=plgpu.Layout.WGMMA)
    scores = jnp.where(worker.sees(begin + keys), scores, MASKED)
    top = jnp.maximum(seen.top, scores.max(axis=1))
    shrink = jnp.exp2(seen.top - top)
    weights = jnp.exp2(scores - lax.broadcast_in_dim(top, scores.shape, [0]))
    total = seen.total * shrink + weights.sum(axis=1)
    if plan.quantised:
        weights = weights * _of_keys(ring.scales[-1], slot, weights.shape)
    worker.weights[...] = weights.astype(plan.dtype)
    plgpu.commit_smem()
    parts = []
    for lanes, part in zip(worker.lanes, seen.parts, strict=True):

        def weigh(acc: Any, lanes: Any = lanes) -> jax.Array:
            plgpu.wgmma(acc, worker.weights, values.at[:, lanes])
            return acc[...]

        shape = (MOSAIC_ROWS, lanes.size)
        added = pl.run_scoped(weigh, plgpu.WGMMAAccumulatorRef(shape, jnp.float32))
        parts.append(part * lax.broadcast_in_dim(shrink, shape, [0]) + added)
    plgpu.barrier_arrive(ring.used.at[slot])
    return Seen(top, total, tuple(parts))


def write(
    seen: Seen, worker: Worker, out_smem: Any, lse_smem: Any, out_ref: Any, lse_ref: Any
) -> None:
    """The results and the log-sum-exp (in log2) of the first rows, by way of shared memory that
    may be the queries' or the ring's; of warpgroups that share the lanes, one writes for all."""
    share = len(worker.team.plan.shares) > 1
    if share:
        worker.team.wait()
    for lanes, part in zip(worker.lanes, seen.parts, strict=True):
        values = part / lax.broadcast_in_dim(seen.total, part.shape, [0])
        out_smem[:, lanes] = values.astype(out_smem.dtype)
    writes = worker.lanes[0].start == 0
    if writes:
        lse_smem[...] = seen.top + jnp.log2(seen.total)
    plgpu.commit_smem()
    if share:
        worker.team.wait()
    if writes:
        rows = pl.ds(0, lse_ref.shape[0])
        plgpu.copy_smem_to_gmem(out_smem.at[rows], out_ref)
        plgpu.copy_smem_to_gmem(lse_smem.at[rows], lse_ref)
        plgpu.wait_smem_to_gmem(0)


def _clear(plan: Plan, span: Span, begin: Any, values: Any) -> None:
    """What no query sees may be anything, nan included, and 0 x nan would be nan."""
    for lanes in plan.lanes(plan.rules.value_dim):  # Few at a time: all of them fill the registers.
        loaded = plgpu.load(values.at[:, lanes], layout=plan.rows_layout)
        keys = begin + plgpu.broadcasted_iota(jnp.int32, loaded.shape, 0, layout=plan.rows_layout)
        inside = (keys >= span.first) & (keys < span.stop)
        values[:, lanes] = jnp.where(inside, loaded, jnp.zeros_like(loaded))
    plgpu.commit_smem()


def _of_keys(scales: Any, slot: Any, shape: tuple[int, ...]) -> jax.Array:
    """The scales of a block's keys beside every query."""
    of_key = plgpu.load(scales.at[slot, :, 0], layout=plgpu.Layout.WGMMA.reduce(0))
    return lax.broadcast_in_dim(of_key, shape, [1])


def row_numbers() -> jax.Array:
    """`[M]`: 0, 1, 2, ..."""
    return plgpu.broadcasted_iota(jnp.int32, (MOSAIC_ROWS,), 0, layout=plgpu.Layout.WGMMA.reduce(1))
