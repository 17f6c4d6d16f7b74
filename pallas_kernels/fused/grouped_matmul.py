"""Rows times the matrix of their group, in Pallas-Triton: the experts of a mixture.

Rows are sorted by group. A tile holds rows of one group only; a program finds its group and its
rows from the sizes of the groups, and reads of the matrices its own. The rows behind the last group
are a group without a matrix, whose results are zeros.

Tiles have one size for each dtype, however many rows there are, and a row's sums run over all
inputs in order: its result has the same bits wherever the row stands and whatever stands beside it.

Dimension key: T rows, E groups, I inputs, O outputs, X tiles; of one tile M rows, N outputs,
C inputs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.checks import DTYPES, check_dtype, check_rank, check_shape, check_triton
from pallas_kernels.launch import launch
from pallas_kernels.online import EXACT, div, iota
from pallas_kernels.rules import power_of_two


@partial(jax.jit, static_argnames="interpret")
def grouped_matmul(
    x: jax.Array, weights: jax.Array, group_sizes: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`x[t] @ weights[group of t]`, as `jax.lax.ragged_dot` has it.

    Args:
        x: `[T, I]` in bfloat16, float16 or float32, sorted by group.
        weights: `[E, I, O]` in the dtype of x.
        group_sizes: int32 `[E]`, the rows of each group; together no more than T.
        interpret: run the kernel without a GPU, in jax's interpreter.

    Returns:
        `[T, O]` in the dtype of x; zeros for rows behind the last group.

    Raises:
        ValueError: arguments that do not fit together.
        NotImplementedError: this jax is older than 0.10.
    """
    _check(x, weights, group_sizes)
    check_triton("grouped_matmul")
    T, (E, _, num_outputs) = x.shape[0], weights.shape
    sizes = _sizes(x.dtype)
    return launch(
        partial(_multiply_tile, sizes),
        (_num_tiles(T, E + 1, sizes.rows), pl.cdiv(num_outputs, sizes.outputs)),
        (x, weights, group_sizes),
        [jax.ShapeDtypeStruct((T, num_outputs), x.dtype)],
        name="fused_grouped_matmul",
        num_warps=sizes.num_warps,
        num_stages=sizes.num_stages,
        interpret=interpret,
    )[0]


def grouped_matmul_reference(x: jax.Array, weights: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """What `grouped_matmul` computes, by `jax.lax.ragged_dot`."""
    _check(x, weights, group_sizes)
    product = lax.ragged_dot(
        x, weights, group_sizes, precision=EXACT, preferred_element_type=jnp.float32
    )
    is_grouped = jnp.arange(x.shape[0]) < jnp.sum(group_sizes)
    return jnp.where(is_grouped[:, None], product, 0).astype(x.dtype)


class _Sizes(NamedTuple):
    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


class _Rows(NamedTuple):
    """A tile's group and rows; all are numbers in a program."""

    group: jax.Array
    """E for rows behind the last group."""
    first: jax.Array
    stop: jax.Array
    """No row of the group stands here or behind; at or before `first` where a tile has no rows."""


def _sizes(dtype: Any) -> _Sizes:
    """Sizes of tiles. None was measured on a GPU."""
    if dtype == jnp.float32:
        return _Sizes(rows=32, outputs=64, inputs=32, num_warps=4, num_stages=3)
    return _Sizes(rows=64, outputs=128, inputs=64, num_warps=4, num_stages=3)


def _num_tiles(rows: int, groups: int, tile: int) -> int:
    """Tiles that suffice however the rows are divided among the groups."""
    groups = min(groups, rows)
    # Most are used where all groups but one have a single row.
    return groups - 1 + pl.cdiv(rows - (groups - 1), tile)


def _rows_of_tile(tile: jax.Array, sizes_ref: Any, num_rows: int, size: int) -> _Rows:
    """Which rows a tile has: tiles are counted through the groups in their order."""
    E = sizes_ref.shape[0]
    index = iota(power_of_two(E + 1))
    rows = plgpu.load(sizes_ref.at[index], mask=index < E, other=0)
    rows = jnp.where(index == E, num_rows - jnp.sum(rows), rows)
    tiles = div(rows + (size - 1), size)
    is_before = lax.cumsum(tiles) <= tile
    group = jnp.sum(is_before.astype(jnp.int32))
    first_row = jnp.sum(jnp.where(is_before, rows, 0))
    first_tile = jnp.sum(jnp.where(is_before, tiles, 0))
    stop = first_row + jnp.sum(jnp.where(index == group, rows, 0))
    return _Rows(group, first_row + (tile - first_tile) * size, stop)


def _multiply_tile(
    sizes: _Sizes, x_ref: Any, weights_ref: Any, sizes_ref: Any, out_ref: Any
) -> None:
    """One tile of a group's rows and of outputs; without rows it does nothing."""
    (T, num_inputs), (E, _, num_outputs) = x_ref.shape, weights_ref.shape
    tile = _rows_of_tile(pl.program_id(0), sizes_ref, T, sizes.rows)
    rows_M = tile.first + iota(sizes.rows)
    outputs_N = pl.program_id(1) * sizes.outputs + iota(sizes.outputs)
    real_M, real_N = rows_M < tile.stop, outputs_N < num_outputs

    def add_block(index: jax.Array, total: jax.Array) -> jax.Array:
        inputs_C = index * sizes.inputs + iota(sizes.inputs)
        real_C = inputs_C < num_inputs
        x_MC = plgpu.load(
            x_ref.at[rows_M[:, None], inputs_C[None, :]],
            mask=real_M[:, None] & real_C[None, :],
            other=0.0,
        )
        weights_CN = plgpu.load(
            weights_ref.at[tile.group, inputs_C[:, None], outputs_N[None, :]],
            mask=real_C[:, None] & real_N[None, :],
            other=0.0,
        )
        return total + plgpu.dot(x_MC, weights_CN, precision=EXACT)

    @pl.when(tile.first < tile.stop)
    def _() -> None:
        # A tile behind the last group has no block to add up.
        blocks = jnp.where(tile.group < E, jnp.int32(pl.cdiv(num_inputs, sizes.inputs)), 0)
        zeros = jnp.zeros((sizes.rows, sizes.outputs), jnp.float32)
        total = lax.fori_loop(jnp.int32(0), blocks, add_block, zeros)
        plgpu.store(
            out_ref.at[rows_M[:, None], outputs_N[None, :]],
            total.astype(out_ref.dtype),
            mask=real_M[:, None] & real_N[None, :],
        )


def _check(x: jax.Array, weights: jax.Array, group_sizes: jax.Array) -> None:
    """Raise ValueError where shapes or dtypes do not fit."""
    check_rank("x", x, 2)
    check_dtype("x", x, DTYPES)
    check_rank("weights", weights, 3)
    check_dtype("weights", weights, (x.dtype.name,))
    E, _, num_outputs = weights.shape
    check_shape("weights", weights, (E, x.shape[1], num_outputs), f"x of {x.shape}")
    check_dtype("group_sizes", group_sizes, ("int32",))
    check_shape("group_sizes", group_sizes, (E,), f"weights of {weights.shape}")
