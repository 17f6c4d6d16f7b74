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
(A rounded matrix is turned into floats before each product otherwise.) An `OutputsFirst` stands
where an array of weights stood and multiplies as it did, `x @ w`.

Dimension key: T rows, I inputs, O outputs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.params import Params, path_name
from ferrum_jax.models.quantized import flat_shape, is_one_matrix, is_quantized

MOST_ROWS = 64
"""Rows up to which it is the faster way."""
COPY_BYTES = 4
TURNS = jax.__version_info__ >= (0, 6)
"""Whether the product is `[outputs, rows]` first: jax 0.5 fails on that layout in some programs."""


@struct.dataclass
class OutputsFirst:
    """Weights in the place of an array `[inputs..., outputs...]`."""

    values: Any
    """float32 [O, I]"""
    shape: tuple[int, ...] = struct.field(pytree_node=False)

    def reshape(self, *shape: int) -> OutputsFirst:
        """The same matrix with its input axes as one, and its output axes as another."""
        outputs, inputs = self.values.shape
        assert shape in ((inputs, outputs), (inputs, -1), (-1, outputs)), (shape, self.shape)
        return replace(self, shape=(inputs, outputs))

    def __rmatmul__(self, x: Array) -> Array:
        return self.product(x).astype(x.dtype)

    def product(self, x: Float[Array, "T I"]) -> Float[Array, "T O"]:
        """`x @ w` in fp32, whatever `x` is in."""
        x32, along_inputs = x.astype(jnp.float32), (((1,), (1,)), ((), ()))
        if not TURNS:
            return jax.lax.dot_general(x32, self.values, along_inputs)
        product = jax.lax.dot_general(self.values, x32, along_inputs)
        # Without the barrier XLA turns it round into `x @ w`.
        return jax.lax.optimization_barrier(product).T


def with_outputs_first(params: Params) -> Params:
    """The parameters for steps of few rows; what is not a projection is shared with `params`.

    A tied head is the embedding, which is outputs first as it stands: in fp32 it is not copied.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if not is_one_matrix(name, leaf.shape):
            return leaf
        return OutputsFirst(_transposed(leaf, flat_shape(name, leaf.shape)), shape=leaf.shape)

    laid = jax.tree_util.tree_map_with_path(one, params, is_leaf=is_quantized)
    head = params.unembed
    if head is not None:
        rows = _transposed(head, head.shape)
    elif params.embed.dtype == jnp.float32:
        rows = params.embed
    else:
        rows = jax.device_put(np.asarray(params.embed).astype(np.float32))
    return replace(laid, unembed=OutputsFirst(rows, shape=rows.shape[::-1]))


def copied_bytes(shapes: dict[str, tuple[int, ...]], dtype: str) -> int:
    """What the copies take, of parameters of such shapes and dtype."""
    head = "unembed" if "unembed" in shapes else "embed"
    copied = [shape for path, shape in shapes.items() if is_one_matrix(path, shape)]
    if head == "unembed" or dtype != "float32":
        copied.append(shapes[head])
    return COPY_BYTES * sum(math.prod(shape) for shape in copied)


def _transposed(leaf: Any, flat: tuple[int, ...], rows: int = 64) -> jax.Array:
    """`[O, I]`, on the host: it is where the device's memory is. In strips, to stay in cache."""
    stored = np.asarray(leaf).reshape(flat)
    out = np.empty(flat[::-1], np.float32)
    for start in range(0, flat[1], rows):
        out[start : start + rows] = stored[:, start : start + rows].T
    return jax.device_put(out)
