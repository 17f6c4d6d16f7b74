"""Projections for steps of few rows on a CPU: a second copy of their weights, outputs first.

XLA's matmul on a CPU packs its weights anew at every call, which is most of the time where rows
are few. It packs least where the weights are `[outputs, inputs]` and the product is formed as
`[outputs, rows]`. In ms, for 85 million weights in 48 matrices and a head of 25 million (jax
0.10.2, two hardware threads of one AVX2 core):

    rows                          1      2      8     16     32     64    512
    fp32, x @ w                  24     52     87    102    163    158    852
    fp32, outputs first          23     28     33     54     70    117   1128
    bf16, x @ w                 245           198    251           275
    bf16, outputs first         247            44     67           169

So the copies are in fp32, of bf16, float16 and rounded weights too: they stand for the same values.
(A rounded matrix is turned into floats before each product otherwise.) A CPU that multiplies
bfloat16 or int8 itself has copies of such weights as they are, and where that is faster multiplies
any number of rows with them (`models/narrow.py`). An `OutputsFirst` stands where an array of
weights stood and multiplies as it did, `x @ w`.

Dimension key: T rows, I inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.host_memory import empty_for_weights, for_weights
from ferrum_jax.models.narrow import (
    MOST_ROWS_TURNED,
    MOST_TURNED_IN_VECTORS,
    narrow_product,
    product_by_outputs,
)
from ferrum_jax.models.params import Params, path_name
from ferrum_jax.models.quantized import flat_shape, is_one_matrix, is_quantized
from ferrum_jax.types import DataType

MOST_ROWS = 64
"""Rows up to which it is the faster way, in fp32."""
MANY_ROWS_OF_INT8 = jax.__version_info__ >= (0, 12)
"""Whether int8 is the faster way for any number of rows on a CPU without tiles too."""


@struct.dataclass
class OutputsFirst:
    """Weights in the place of an array `[inputs..., outputs...]`."""

    values: Any
    """float32, bfloat16 or int8 [O, I]"""
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    scales: Any = None
    """float32 [O], of rounded weights that are not in float32"""
    factors: Any = None
    """float32 [I], of theirs: what the inputs are multiplied by before"""
    tiles: bool = struct.field(pytree_node=False, default=False)
    """whether the CPU multiplies bfloat16 and int8 in tiles"""

    @property
    def suits_many_rows(self) -> bool:
        """Whether it is the faster way for any number of rows."""
        if self.values.dtype == jnp.int8:
            return self.tiles or MANY_ROWS_OF_INT8
        return self.values.dtype != jnp.float32

    @property
    def turned_rows(self) -> int:
        """Rows up to which a product of bfloat16 or int8 is formed as `[outputs, rows]`."""
        return MOST_ROWS_TURNED if self.tiles else MOST_TURNED_IN_VECTORS[str(self.values.dtype)]

    def reshape(self, *shape: int) -> OutputsFirst:
        """The same matrix with its input axes as one, and its output axes as another."""
        outputs, inputs = self.values.shape
        assert shape in ((inputs, outputs), (inputs, -1), (-1, outputs)), (shape, self.shape)
        return replace(self, shape=(inputs, outputs))

    def __rmatmul__(self, x: Array) -> Array:
        return self.product(x).astype(x.dtype)

    def product(self, x: Float[Array, "T I"]) -> Float[Array, "T O"]:
        """`x @ w` in fp32, whatever `x` is in."""
        if self.factors is not None:
            x = x * self.factors
        if self.values.dtype != jnp.float32:
            sums = narrow_product(x, self.values, self.turned_rows)
            return sums if self.scales is None else sums * self.scales
        return product_by_outputs(x.astype(jnp.float32), self.values, jnp.float32)


def with_outputs_first(
    params: Params, multiplies: Collection[DataType] = (), *, tiles: bool = False
) -> Params:
    """The parameters for steps of few rows; what is not a projection is shared with `params`.

    A tied head is the embedding, which is outputs first as it stands: it is not copied where it is
    in the type that a copy would have.

    Args:
        multiplies: types narrower than float32 that the CPU multiplies itself.
        tiles: whether it does that in tiles.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if not is_one_matrix(name, leaf.shape):
            return leaf
        return _laid(leaf, flat_shape(name, leaf.shape), held_in(kind_of(leaf), multiplies), tiles)

    laid = jax.tree_util.tree_map_with_path(one, params, is_leaf=is_quantized)
    head, held = params.unembed, held_in(str(params.embed.dtype), multiplies)
    if head is not None:
        return replace(laid, unembed=_laid(head, head.shape, held, tiles))
    rows = params.embed
    if rows.dtype != held.value:
        rows = jax.device_put(for_weights(np.asarray(rows), held.value))
    return replace(laid, unembed=OutputsFirst(rows, shape=rows.shape[::-1], tiles=tiles))


def held_in(kind: str, multiplies: Collection[DataType]) -> DataType:
    """The type of a copy of weights of a kind (`kind_of`): it holds them as they are."""
    if kind == "int8" and DataType.INT8 in multiplies:
        return DataType.INT8
    if kind in ("bfloat16", "fp8") and DataType.BFLOAT16 in multiplies:
        return DataType.BFLOAT16
    return DataType.FLOAT32


def kind_of(leaf: Any) -> str:
    """`int8`, `fp8` or `int4` of a rounded matrix, the dtype's name of an array."""
    return leaf.kind if is_quantized(leaf) else str(leaf.dtype)


def copied_bytes(
    kinds: dict[str, tuple[tuple[int, ...], str]], multiplies: Collection[DataType] = ()
) -> int:
    """What the copies take, of parameters of such shapes and kinds."""
    tied = "unembed" not in kinds
    total = 0
    for path, (shape, kind) in kinds.items():
        held = held_in(kind, multiplies)
        is_head = path == "embed" and tied and held.value != kind
        if is_head or path == "unembed" or is_one_matrix(path, shape):
            total += held.itemsize * math.prod(shape)
    return total


def _laid(
    leaf: Any, flat: tuple[int, ...], held: DataType, tiles: bool, rows: int = 64
) -> OutputsFirst:
    """Laid out on the host: it is where the device's memory is. In strips, to stay in cache."""
    narrow = is_quantized(leaf) and held != DataType.FLOAT32
    stored = np.asarray(leaf.values if narrow else leaf).reshape(flat)
    out = empty_for_weights(flat[::-1], held.value)
    for start in range(0, flat[1], rows):
        out[start : start + rows] = stored[:, start : start + rows].T
    beside = {"scales": leaf.scales, "factors": leaf.factors} if narrow else {}
    return OutputsFirst(jax.device_put(out), shape=leaf.shape, tiles=tiles, **beside)
