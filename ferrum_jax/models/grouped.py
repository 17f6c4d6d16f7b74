"""Rows times the matrix of their group, as the experts of a mixture need it.

`jax.lax.ragged_dot` has an instruction on some devices; on a CPU it multiplies every row by every
matrix and masks. There rows run in tiles of one group, one after the other. A tile holds as many
rows as a group has on average, 64 at most: so a matrix that has rows is read about once, and no
other is. Measured (`python experiments/010_moe_path/run.py`, matrices of [512, 256], float32, jax
0.10.2, 2 CPU cores): ragged_dot took 1.5 to 10 times as long with 8 experts and 36 to 636 times
with 64 and 128, at 1 to 512 tokens; a matrix gathered for every row took as long at one token and
2 to 140 times as long at more; no other size of tile took less than 0.76 times as long.

Dimension key: Y rows, E groups, D in, F out, X tiles, R rows of a tile.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.models.quantized import QuantizedMatrix, is_quantized
from ferrum_jax.models.wide_sums import product_by_float32
from ferrum_jax.types import cut_runs, even_rows

try:  # Since jax 0.6.
    from jax import shard_map

    UNCHECKED: dict[str, Any] = {"check_vma": False}
except ImportError:
    from jax.experimental.shard_map import shard_map

    UNCHECKED = {"check_rep": False}

LARGEST_TILE = 64
CAN_TRANSPOSE_TILES = jax.__version_info__ >= (0, 6)
"""jax 0.5.0 fails to transpose the loop over tiles: it runs ragged_dot, and for derivatives through
rounded matrices gathers one of them per tile."""
MODEL_AXIS = "model"
"""Of a mesh: the axis over which a model is divided (`models/partition.py`)."""


@struct.dataclass
class DividedExperts:
    """Matrices of which each device of a mesh holds as many as the others.

    Each multiplies the rows of its own, and the products are summed over the devices.
    """

    matrices: Any
    """[E, D, F], or a `QuantizedMatrix`"""
    mesh: Mesh = struct.field(pytree_node=False)


@struct.dataclass
class Groups:
    """Which rows are whose: sorted by group, and cut into tiles."""

    sizes: Int[Array, " E"]
    group: Int[Array, " Y"]
    rows: Int[Array, "X R"]
    """the rows of each tile; behind the end of its group they are others', and go nowhere"""
    group_of_tile: Int[Array, " X"]
    used: Bool[Array, " X"]
    place: Int[Array, " Y"]
    """flat index into [X, R]"""
    begin: Int[Array, ""] | None = None
    """the first row of the first group, where others' rows stand before it"""


def group_rows(group_Y: Int[Array, " Y"], num_groups: int, *, tile: int | None = None) -> Groups:
    """The layout of rows that are sorted by group, in tiles of `tile` (None: `tile_size`)."""
    num_rows = group_Y.shape[0]
    tile = tile_size(num_rows, num_groups) if tile is None else tile
    num_tiles = min(num_rows, num_rows // tile + num_groups)
    sizes_E = jnp.bincount(group_Y, length=num_groups).astype(jnp.int32)
    start_E = jnp.cumsum(sizes_E) - sizes_E
    cut = cut_runs(start_E, sizes_E, tile, num_tiles)
    return Groups(
        sizes=sizes_E,
        group=group_Y,
        rows=jnp.minimum(cut.starts[:, None] + jnp.arange(tile), num_rows - 1),
        group_of_tile=cut.runs,
        used=cut.used,
        place=cut.places(group_Y, jnp.arange(num_rows) - start_E[group_Y]),
    )


def tile_size(num_rows: int, num_groups: int) -> int:
    """Rows of a tile: a group's average, as a power of two."""
    average = -(-num_rows // num_groups)
    return even_rows(min(LARGEST_TILE, 1 << (average - 1).bit_length()))


@partial(jax.custom_jvp)
def grouped_matmul(
    rows: Float[Array, "Y D"],
    matrices: Float[Array, "E D F"] | QuantizedMatrix | DividedExperts,
    groups: Groups,
) -> Float[Array, "Y F"]:
    """`rows[y] @ matrices[group of y]`."""
    return _product(rows, matrices, groups)


@partial(grouped_matmul.defjvp, symbolic_zeros=True)
def _derivative(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Linear in both; of the matrices in a form whose transpose writes each of them once."""
    rows, matrices, groups = primals
    d_rows, d_matrices, _ = tangents
    out = grouped_matmul(rows, matrices, groups)
    change: Any = jnp.zeros_like(out)
    if not isinstance(d_rows, jax.custom_derivatives.SymbolicZero):
        change += _transposable_product(d_rows, matrices, groups)
    if is_quantized(matrices):  # Integers have no derivative.
        return out, change
    if not isinstance(d_matrices, jax.custom_derivatives.SymbolicZero):
        tiles = jnp.einsum("XRD,XDF->XRF", rows[groups.rows], d_matrices[groups.group_of_tile])
        change += tiles.reshape(-1, tiles.shape[-1])[groups.place]
    return out, change


def _product(rows: Array, matrices: Any, groups: Groups) -> Array:
    if isinstance(matrices, DividedExperts):
        return _over_devices(rows, matrices, groups)
    if is_quantized(matrices):  # ragged_dot would need all of them as floats at once.
        return _in_tiles(rows, matrices, groups)
    if not CAN_TRANSPOSE_TILES:
        return _masked(rows, matrices, groups)
    return jax.lax.platform_dependent(rows, matrices, groups, cpu=_in_tiles, default=_masked)


def _transposable_product(rows: Array, matrices: Any, groups: Groups) -> Array:
    if not is_quantized(matrices) or CAN_TRANSPOSE_TILES:
        return _product(rows, matrices, groups)
    tiles = jax.vmap(lambda tile_RD, group: tile_RD @ matrices[group])(
        rows[groups.rows], groups.group_of_tile
    )
    return tiles.reshape(-1, tiles.shape[-1])[groups.place]


def _over_devices(rows: Array, experts: DividedExperts, groups: Groups) -> Array:
    everywhere, divided = PartitionSpec(), PartitionSpec(MODEL_AXIS)
    run = shard_map(
        _share,
        mesh=experts.mesh,
        in_specs=(everywhere, divided, everywhere),
        out_specs=everywhere,
        **UNCHECKED,
    )
    return run(rows, experts.matrices, groups)


def _share(rows: Array, matrices: Any, groups: Groups) -> Array:
    """What one device's experts contribute, summed over the devices."""
    count = jax.tree.leaves(matrices)[0].shape[0]  # A `QuantizedMatrix` says that of all devices.
    own = share_of(groups, jax.lax.axis_index(MODEL_AXIS) * count, count)
    return jax.lax.psum(_product(rows, matrices, own), MODEL_AXIS)


def share_of(groups: Groups, first: Array | int, count: int) -> Groups:
    """The layout for `count` of the groups alone, whose other rows come out as zeros."""
    own_X = groups.group_of_tile - first
    is_before = jnp.arange(groups.sizes.shape[0]) < first
    return replace(
        groups,
        sizes=jax.lax.dynamic_slice_in_dim(groups.sizes, first, count),
        group_of_tile=jnp.clip(own_X, 0, count - 1),
        used=groups.used & (own_X >= 0) & (own_X < count),
        begin=jnp.sum(jnp.where(is_before, groups.sizes, 0)),
    )


def _masked(rows: Array, matrices: Array, groups: Groups) -> Array:
    num_rows = rows.shape[0]

    def product(rows: Array) -> Array:
        padding = even_rows(num_rows) - num_rows
        padded = jnp.pad(rows, ((0, padding), (0, 0)))
        return jax.lax.ragged_dot(padded, matrices, groups.sizes)[:num_rows]

    if groups.begin is None:
        return product(rows)
    # ragged_dot's first group begins at the first row.
    out = product(jnp.roll(rows, -groups.begin, axis=0))
    is_own = jnp.arange(rows.shape[0]) < jnp.sum(groups.sizes)
    return jnp.roll(jnp.where(is_own[:, None], out, 0), groups.begin, axis=0)


def _in_tiles(rows: Array, matrices: Any, groups: Groups) -> Array:
    width = matrices.shape[-1]
    dtype = rows.dtype if is_quantized(matrices) else jnp.result_type(rows, matrices)

    def one(tile: tuple[Array, Array, Array]) -> Array:
        rows_RD, group, used = tile
        nothing = jnp.zeros((rows_RD.shape[0], width), dtype)
        return jax.lax.cond(used, lambda: product(rows_RD, matrices[group]), lambda: nothing)

    def product(rows_RD: Array, matrix: Any) -> Array:
        if is_quantized(matrix):
            return rows_RD @ matrix
        # Of bfloat16 a CPU's XLA makes a product of float32 copies, unless float32 is asked for:
        # 0.4 to 1.0 of the time, 4 to 512 tokens, 8 and 64 experts (jax 0.10.2, AMX).
        return product_by_float32(rows_RD, matrix)

    tiles = jax.lax.map(one, (rows[groups.rows], groups.group_of_tile, groups.used))
    return tiles.reshape(-1, width)[groups.place]
