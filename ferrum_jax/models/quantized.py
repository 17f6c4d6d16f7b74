"""Weights that stay int8 on the device: integers, and a scale per output channel.

A `QuantizedMatrix` stands where an array of weights stood and multiplies as it did, `x @ w`: no
model code knows of it. Rounded to nearest, symmetric, the largest weight of a channel at 127.
What is rounded: the projections of attention (of latent attention all but `kv_up`), of dense
blocks and of experts. Embeddings, heads, norms, routers and recurrent mixers keep their dtype.

Dimension key: I inputs, O outputs, E experts.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ferrum_jax.models.params import Params, path_name
from ferrum_jax.types import UnsupportedError

LARGEST = 127
PROJECTIONS = {
    "attention": ("qkv", "o", "gate", "q", "q_down", "kv_down"),
    "mlp": ("gate_up", "down", "gate", "up", "latent_down", "latent_up"),
    "shared": ("gate_up", "down"),
    "experts_beside": ("gate", "up", "down"),
}
"""What is rounded, by the block that it is of."""


@struct.dataclass
class QuantizedMatrix:
    """int8 weights in the place of an array `[(E,) inputs..., outputs...]` of `dtype`.

    It multiplies from the right, in the dtype of what it is given and with sums in fp32; an index
    gives an expert's; `np.asarray` gives the weights that it stands for, in fp32.
    """

    values: Any
    """int8 [(E,) I, O]"""
    scales: Any
    """float32 [(E,) O]"""
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    dtype: str = struct.field(pytree_node=False)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def reshape(self, *shape: int) -> QuantizedMatrix:
        """The same matrix with its input axes as one, and its output axes as another."""
        inputs, outputs = self.values.shape
        assert shape in ((inputs, outputs), (inputs, -1), (-1, outputs)), (shape, self.shape)
        return replace(self, shape=(inputs, outputs))

    def __getitem__(self, expert: Any) -> QuantizedMatrix:
        assert self.values.ndim == 3, "only a stack of experts has parts"
        return replace(
            self, values=self.values[expert], scales=self.scales[expert], shape=self.shape[1:]
        )

    def __rmatmul__(self, x: jax.Array) -> jax.Array:
        sums = jnp.matmul(x, self.values.astype(x.dtype), preferred_element_type=jnp.float32)
        return (sums * self.scales).astype(x.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        weights = np.asarray(self.values, np.float32) * np.asarray(self.scales)[..., None, :]
        return weights.reshape(self.shape).astype(dtype or np.float32)


def is_quantized(leaf: Any) -> bool:
    """For `jax.tree` functions that are to see a quantised matrix as one."""
    return isinstance(leaf, QuantizedMatrix)


def quantises(path: str) -> bool:
    """Whether the parameter at `layers.3.attention.qkv` is one that is rounded."""
    block, _, name = path.rpartition(".")
    return name in PROJECTIONS.get(block.rpartition(".")[2], ())


def quantise(path: str, weights: np.ndarray, dtype: str) -> QuantizedMatrix:
    """A parameter rounded, on the host.

    Args:
        path: of the parameter, as in `layers.3.attention.qkv`; it tells inputs from outputs.
        weights: on the host.
        dtype: what the weights would have had.
    """
    flat = np.asarray(weights, np.float32).reshape(flat_shape(path, weights.shape))
    scales = np.abs(flat).max(axis=-2) / LARGEST
    steps = flat / np.where(scales > 0, scales, 1)[..., None, :]
    values = np.rint(steps).astype(np.int8)
    shape = tuple(weights.shape)
    return QuantizedMatrix(values, scales.astype(np.float32), shape=shape, dtype=dtype)


def quantise_params(params: Params) -> Params:
    """The parameters with what is rounded in int8; parameters that are so already stay."""

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if is_quantized(leaf) or not quantises(name):
            return leaf
        rounded = quantise(name, np.asarray(leaf.astype(jnp.float32)), str(leaf.dtype))
        return jax.device_put(rounded)

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_quantized)


def refuse_quantized(params: Params, purpose: str) -> None:
    """Raise `UnsupportedError` where a change of weights would meet rounded ones."""
    if any(map(is_quantized, jax.tree.leaves(params, is_leaf=is_quantized))):
        raise UnsupportedError(
            f"{purpose} changes weights, and these are in int8; load the model without quantization"
        )


def flat_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`[(E,) I, O]` of a parameter that is rounded."""
    block, _, name = path.rpartition(".")
    if name == "o":  # [heads, head, outputs]
        return math.prod(shape[:-1]), shape[-1]
    if len(shape) == 3 and block.endswith((".mlp", ".experts_beside")) and name != "gate_up":
        return shape  # of experts
    return shape[0], math.prod(shape[1:])
