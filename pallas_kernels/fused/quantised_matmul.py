"""Rows times weights that stay rounded in memory, in Pallas-Triton: int8, fp8 (e4m3) and int4.

A tile of weights is read as it is stored and becomes numbers of the rows' dtype in registers, so
that of a matrix no more than its rounded bytes are read. Sums are fp32. A scale of a whole output
channel multiplies the channel's sum; a scale of int4, which a group of inputs shares, goes into the
weights, rounded once, to the rows' dtype.

Where the tiles of the result are too few to fill a GPU, as in decode, the inputs are divided among
programs (split K): each leaves a partial sum in fp32, and these are added in the order of the
inputs, by XLA, which fuses that with what comes next. So the order of all sums follows from the
shapes alone.

Dimension key: T rows, I inputs, O outputs, G groups of inputs, S splits of the inputs; of one tile
M rows, N outputs, C inputs, or P pieces of C inputs.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.checks import (
    DTYPES,
    check_dtype,
    check_rank,
    check_shape,
    check_triton,
    offsets_overflow,
)
from pallas_kernels.launch import launch
from pallas_kernels.online import EXACT, div, float8_bits, iota, numbers, rem
from pallas_kernels.rules import power_of_two

STORED = ("int8", "uint8", "float8_e4m3fn")
MIN_TILE = 16
"""Rows, outputs or inputs below which a matrix unit takes no operand."""
DECODE_ROWS, MIDDLE_ROWS = 64, 512
"""Rows up to which one tile holds all of them, and up to which tiles are small."""
DECODE_PROGRAMS, PREFILL_PROGRAMS = 384, 128
"""Programs that fill a GPU: small ones, and ones that take a multiprocessor for themselves."""
SPLIT_INPUTS = 16
"""Inputs of a split at the least, for each row of a tile: partial sums are bytes, too."""


@partial(jax.jit, static_argnames="interpret")
def quantised_matmul(
    x: jax.Array, values: jax.Array, scales: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`x @ weights` of weights that are rounded.

    Args:
        x: `[T, I]` in bfloat16, float16 or float32.
        values: `[I, O]` in int8, in float8_e4m3fn or, as its bits, in uint8. With scales of groups
            int4, as uint8 `[I / 2, O]`: input i in the low half of byte i and input I / 2 + i in
            the high half, 8 above their value.
        scales: float32 `[O]`; of int4 `[G, O]`, for consecutive groups of inputs, of which each
            half of the inputs has as many.
        interpret: run the kernel without a GPU, in jax's interpreter.

    Returns:
        `[T, O]` in the dtype of x.

    Raises:
        ValueError: arguments that do not fit together.
        NotImplementedError: this jax is older than 0.10.
    """
    _check(x, values, scales)
    check_triton("quantised_matmul")
    T, num_outputs = x.shape[0], values.shape[1]
    values = float8_bits(values)
    sizes = _sizes(x, num_outputs)
    blocks = _num_blocks(values, scales, sizes.inputs)
    turns = pl.cdiv(blocks, sizes.splits)
    S = pl.cdiv(blocks, turns)
    parts = launch(
        partial(_multiply_tile, _Plan(sizes, blocks, turns)),
        (pl.cdiv(T, sizes.rows), pl.cdiv(num_outputs, sizes.outputs), S),
        (x, values, scales),
        [jax.ShapeDtypeStruct((S, T, num_outputs), x.dtype if S == 1 else jnp.float32)],
        name="fused_quantised_matmul",
        num_warps=sizes.num_warps,
        num_stages=sizes.num_stages,
        interpret=interpret,
    )[0]
    return reduce(add, (parts[split] for split in range(S))).astype(x.dtype)


def quantised_matmul_reference(x: jax.Array, values: jax.Array, scales: jax.Array) -> jax.Array:
    """What `quantised_matmul` computes, in plain jnp."""
    _check(x, values, scales)
    product = partial(jnp.matmul, precision=EXACT, preferred_element_type=jnp.float32)
    if scales.ndim == 1:
        if values.dtype == jnp.uint8:
            values = lax.bitcast_convert_type(values, jnp.float8_e4m3fn)
        return (product(x, values.astype(x.dtype)) * scales).astype(x.dtype)
    total = jnp.zeros((), jnp.float32)
    x_halves, scale_halves = jnp.split(x, 2, axis=1), jnp.split(scales, 2)
    for x_TC, bits, scales_GO in zip(
        x_halves, (values & 15, values >> 4), scale_halves, strict=True
    ):
        grouped = (bits.astype(jnp.float32) - 8).reshape(scales_GO.shape[0], -1, bits.shape[1])
        weights = (grouped * scales_GO[:, None]).reshape(bits.shape).astype(x.dtype)
        total += product(x_TC, weights)
    return total.astype(x.dtype)


class _Sizes(NamedTuple):
    rows: int
    outputs: int
    inputs: int
    splits: int
    """At the most."""
    num_warps: int
    num_stages: int


class _Plan(NamedTuple):
    sizes: _Sizes
    blocks: int
    """Blocks of inputs."""
    turns: int
    """Blocks of one split."""


class _Tile(NamedTuple):
    """Where a program's rows and outputs lie, and which of them exist."""

    rows_M: jax.Array
    real_M: jax.Array
    outputs_N: jax.Array
    real_N: jax.Array


class _Pieces(NamedTuple):
    """How groups of int4 lie in a block: in pieces that share a scale."""

    size: int
    """A power of two; a group's last piece may hold fewer inputs."""
    of_group: int
    group: int
    """Inputs of a group."""


def _sizes(x: jax.Array, num_outputs: int) -> _Sizes:
    """Sizes of tiles. None was measured on a GPU."""
    (T, num_inputs), is_decode = x.shape, x.shape[0] <= DECODE_ROWS
    if is_decode:
        rows, stages, warps, programs = max(MIN_TILE, power_of_two(T)), 4, 4, DECODE_PROGRAMS
    else:
        rows, stages, warps, programs = (64 if T <= MIDDLE_ROWS else 128), 3, 8, PREFILL_PROGRAMS
    outputs, inputs = 128, 64
    if x.dtype == jnp.float32:
        rows, outputs, inputs = min(rows, 32 if is_decode else 64), 64, 16
    outputs = min(outputs, max(MIN_TILE, power_of_two(num_outputs)))
    wanted = programs // (pl.cdiv(T, rows) * pl.cdiv(num_outputs, outputs))
    splits = max(1, min(wanted, num_inputs // (SPLIT_INPUTS * rows)))
    return _Sizes(rows, outputs, inputs, splits, warps, stages)


def _pieces(group: int, inputs: int) -> _Pieces:
    size = min(power_of_two(group), inputs // 2)
    return _Pieces(size, pl.cdiv(group, size), group)


def _num_blocks(values: jax.Array, scales: jax.Array, inputs: int) -> int:
    """Blocks of so many inputs that a matrix has; of int4 each takes half of them from each half.

    A group's inputs begin a piece, so that pieces and not inputs are counted.
    """
    if scales.ndim == 1:
        return pl.cdiv(values.shape[0], inputs)
    groups = scales.shape[0] // 2
    pieces = _pieces(values.shape[0] // groups, inputs)
    return pl.cdiv(groups * pieces.of_group, inputs // 2 // pieces.size)


def _multiply_tile(plan: _Plan, x_ref: Any, values_ref: Any, scales_ref: Any, out_ref: Any) -> None:
    """One tile of rows and outputs and one split of the inputs."""
    sizes, is_grouped = plan.sizes, len(scales_ref.shape) == 2
    rows_M = pl.program_id(0) * sizes.rows + iota(sizes.rows)
    outputs_N = pl.program_id(1) * sizes.outputs + iota(sizes.outputs)
    real_M, real_N = rows_M < x_ref.shape[0], outputs_N < values_ref.shape[1]
    split, tile = pl.program_id(2), _Tile(rows_M, real_M, outputs_N, real_N)
    block = _int4_block if is_grouped else _byte_block
    product = partial(block, tile, sizes.inputs, x_ref, values_ref, scales_ref)
    total = lax.fori_loop(
        split * plan.turns,
        jnp.minimum((split + 1) * plan.turns, plan.blocks),
        lambda index, total: total + product(index),
        jnp.zeros((sizes.rows, sizes.outputs), jnp.float32),
    )
    if not is_grouped:
        total *= plgpu.load(scales_ref.at[outputs_N], mask=real_N, other=0.0)[None, :]
    plgpu.store(
        out_ref.at[split, rows_M[:, None], outputs_N[None, :]],
        total.astype(out_ref.dtype),
        mask=real_M[:, None] & real_N[None, :],
    )


def _byte_block(
    tile: _Tile, inputs: int, x_ref: Any, values_ref: Any, _: Any, index: jax.Array
) -> jax.Array:
    """A block's product, fp32 `[M, N]`, without the scales of its channels."""
    inputs_C = index * inputs + iota(inputs)
    real_C = inputs_C < x_ref.shape[1]
    x_MC = plgpu.load(
        x_ref.at[tile.rows_M[:, None], inputs_C[None, :]],
        mask=tile.real_M[:, None] & real_C[None, :],
        other=0.0,
    )
    values_CN = plgpu.load(
        values_ref.at[inputs_C[:, None], tile.outputs_N[None, :]],
        mask=real_C[:, None] & tile.real_N[None, :],
        other=0,
    )
    return plgpu.dot(x_MC, numbers(values_CN, x_MC.dtype), precision=EXACT)


def _int4_block(
    tile: _Tile, inputs: int, x_ref: Any, values_ref: Any, scales_ref: Any, index: jax.Array
) -> jax.Array:
    """A block's product, fp32 `[M, N]`: its bytes' low halves and their high halves."""
    half, groups = values_ref.shape[0], scales_ref.shape[0] // 2
    pieces = _pieces(half // groups, inputs)
    P = inputs // 2 // pieces.size
    pieces_P = index * P + iota(P)
    groups_P, real_P = div(pieces_P, pieces.of_group), pieces_P < groups * pieces.of_group
    within_PC = (rem(pieces_P, pieces.of_group) * pieces.size)[:, None] + iota(pieces.size)
    inputs_PC = groups_P[:, None] * pieces.group + within_PC
    real_PC = real_P[:, None] & (within_PC < pieces.group)
    bytes_PCN = plgpu.load(
        values_ref.at[inputs_PC[:, :, None], tile.outputs_N[None, None, :]],
        mask=real_PC[:, :, None] & tile.real_N[None, None, :],
        other=0,
    )

    def product(start: int, first_group: int, bits_PCN: jax.Array) -> jax.Array:
        scales_PN = plgpu.load(
            scales_ref.at[first_group + groups_P[:, None], tile.outputs_N[None, :]],
            mask=real_P[:, None] & tile.real_N[None, :],
            other=0.0,
        )
        weights_PCN = (bits_PCN.astype(jnp.float32) - 8.0) * scales_PN[:, None, :]
        x_MPC = plgpu.load(
            x_ref.at[tile.rows_M[:, None, None], start + inputs_PC[None]],
            mask=tile.real_M[:, None, None] & real_PC[None],
            other=0.0,
        )
        weights_CN = weights_PCN.astype(x_MPC.dtype).reshape(inputs // 2, -1)
        return plgpu.dot(x_MPC.reshape(-1, inputs // 2), weights_CN, precision=EXACT)

    low, high = bytes_PCN & jnp.uint8(15), bytes_PCN >> jnp.uint8(4)
    return product(0, 0, low) + product(half, groups, high)


def _check(x: jax.Array, values: jax.Array, scales: jax.Array) -> None:
    """Raise ValueError where shapes or dtypes do not fit."""
    is_grouped = scales.ndim == 2
    check_rank("x", x, 2)
    check_dtype("x", x, DTYPES)
    check_rank("values", values, 2)
    check_dtype("values", values, ("uint8",) if is_grouped else STORED)
    check_rank("scales", scales, 2 if is_grouped else 1)
    check_dtype("scales", scales, ("float32",))
    (stored, num_outputs), groups = values.shape, scales.shape[0]
    check_shape("x", x, (x.shape[0], stored * scales.ndim), f"values of {values.shape}")
    check_shape("scales", scales, (*scales.shape[:-1], num_outputs), f"values of {values.shape}")
    if offsets_overflow(values.size):
        raise ValueError(
            f"{values.size} stored values are between 2^31 and 2^32, where Pallas-Triton's offsets "
            "overflow; divide the outputs among two calls"
        )
    if is_grouped and (groups % 2 or stored % (groups // 2)):
        raise ValueError(
            f"{groups} groups do not divide each half of {2 * stored} inputs evenly; "
            "give scales of as many groups for the one half as for the other"
        )
