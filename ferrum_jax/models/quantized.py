"""Weights that stay rounded on the device: int8, fp8 (e4m3) or int4.

A `QuantizedMatrix` stands where an array of weights stood and multiplies as it did, `x @ w`: no
model code knows of it. Rounded to nearest, and around zero:

    int8    a scale per output channel, the channel's largest weight at 127
    fp8     the same, at 448
    int4    a scale for every 32 inputs of an output channel, the largest of them at -8; of a matrix
            whose inputs no group of 8 or more divides, int8

What is rounded: the projections of attention (of latent attention all but `kv_up`), of dense
blocks and of experts. Embeddings, heads, norms, routers and recurrent mixers keep their dtype.

Dimension key: I inputs, O outputs, E experts, G groups of inputs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import struct

from ferrum_jax.models.params import Params, path_name
from ferrum_jax.types import UnsupportedError

LARGEST = {"int8": 127.0, "fp8": 448.0}
GROUPS = (32, 16, 8)
"""Inputs that share a scale of int4: the first that divides each half of a matrix's inputs."""
VALUE_BYTES = {"int8": 1.0, "fp8": 1.0, "int4": 0.5}
SCALE_BYTES = 4
PROJECTIONS = {
    "attention": ("qkv", "o", "gate", "q", "q_down", "kv_down"),
    "mlp": ("gate_up", "down", "gate", "up", "latent_down", "latent_up"),
    "shared": ("gate_up", "down"),
    "experts_beside": ("gate", "up", "down"),
}
"""What is rounded, by the block that it is of."""


@struct.dataclass
class QuantizedMatrix:
    """Rounded weights in the place of an array `[(E,) inputs..., outputs...]` of `dtype`.

    It multiplies from the right, in the dtype of what it is given and with sums in fp32; an index
    gives an expert's; `np.asarray` gives the weights that it stands for, in fp32.
    """

    values: Any
    """int8 or float8_e4m3fn [(E,) I, O]; of int4 uint8 [(E,) I / 2, O], input i in the low half of
    byte i and input I / 2 + i in the high half, 8 above their value"""
    scales: Any
    """float32 [(E,) O]; of int4 [(E,) G, O]"""
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    dtype: str = struct.field(pytree_node=False)
    factors: Any = None
    """float32 [I]: what the inputs are multiplied by before; None: by nothing"""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def packed(self) -> bool:
        """Whether a byte holds two weights."""
        return self.values.dtype == np.uint8

    def reshape(self, *shape: int) -> QuantizedMatrix:
        """The same matrix with its input axes as one, and its output axes as another."""
        inputs, outputs = self.values.shape
        inputs *= 1 + self.packed
        assert shape in ((inputs, outputs), (inputs, -1), (-1, outputs)), (shape, self.shape)
        return replace(self, shape=(inputs, outputs))

    def __getitem__(self, expert: Any) -> QuantizedMatrix:
        assert self.values.ndim == 3, "only a stack of experts has parts"
        return replace(
            self, values=self.values[expert], scales=self.scales[expert], shape=self.shape[1:]
        )

    def __rmatmul__(self, x: jax.Array) -> jax.Array:
        if self.factors is not None:
            x = (x * self.factors).astype(x.dtype)
        if self.packed:
            return self._by_halves(x)
        sums = jnp.matmul(x, self.values.astype(x.dtype), preferred_element_type=jnp.float32)
        return (sums * self.scales).astype(x.dtype)

    def _by_halves(self, x: jax.Array) -> jax.Array:
        """Each half of the inputs with its half of the bytes; a scale goes into its weights."""
        half, outputs = self.values.shape
        scales = self.scales.astype(x.dtype).reshape(2, -1, 1, outputs)
        total = jnp.zeros((), jnp.float32)
        for index, bits in enumerate((self.values & 15, self.values >> 4)):
            grouped = (bits.astype(jnp.int8) - 8).astype(x.dtype)
            weights = grouped.reshape(scales.shape[1], -1, outputs) * scales[index]
            total += jnp.matmul(
                x[..., index * half : (index + 1) * half],
                weights.reshape(half, outputs),
                preferred_element_type=jnp.float32,
            )
        return total.astype(x.dtype)

    @property
    def kind(self) -> str:
        """`int8`, `fp8` or `int4`."""
        if self.packed:
            return "int4"
        return "int8" if self.values.dtype == np.int8 else "fp8"

    @property
    def group(self) -> int | None:
        """Inputs that share a scale; None: all of a channel."""
        return 2 * self.values.shape[-2] // self.scales.shape[-2] if self.packed else None

    def spread(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The values, and the scale and, where there are some, the factor of each; float32, in the
        shape of the array."""
        values, scales = np.asarray(self.values), np.asarray(self.scales)
        if self.packed:
            values = np.concatenate([values & 15, values >> 4], axis=-2).astype(np.float32) - 8
            scales = np.repeat(scales, values.shape[-2] // scales.shape[-2], axis=-2)
        else:
            values = values.astype(np.float32)
            scales = np.broadcast_to(scales[..., None, :], values.shape)
        factors = None
        if self.factors is not None:
            factors = np.broadcast_to(np.asarray(self.factors)[:, None], values.shape)
            factors = factors.reshape(self.shape)
        return values.reshape(self.shape), scales.reshape(self.shape), factors

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        values, scales, factors = self.spread()
        weights = values * scales if factors is None else values * scales * factors
        return weights.astype(dtype or np.float32)


def is_quantized(leaf: Any) -> bool:
    """For `jax.tree` functions that are to see a quantised matrix as one."""
    return isinstance(leaf, QuantizedMatrix)


def quantises(path: str) -> bool:
    """Whether the parameter at `layers.3.attention.qkv` is one that is rounded."""
    block, _, name = path.rpartition(".")
    return name in PROJECTIONS.get(block.rpartition(".")[2], ())


def is_one_matrix(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is one that is rounded, and not of experts."""
    return quantises(path) and len(flat_shape(path, shape)) == 2


def quantise(path: str, weights: np.ndarray, dtype: str, kind: str = "int8") -> QuantizedMatrix:
    """A parameter rounded, on the host.

    Args:
        path: of the parameter, as in `layers.3.attention.qkv`; it tells inputs from outputs.
        weights: on the host.
        dtype: what the weights would have had.
        kind: `int8`, `fp8` or `int4`.
    """
    flat = np.asarray(weights, np.float32).reshape(flat_shape(path, weights.shape))
    *lead, inputs, outputs = flat.shape
    kind, group = kept_as(inputs, kind)
    grouped = flat if group is None else flat.reshape(*lead, inputs // group, group, outputs)
    scales = scales_of(grouped, kind)
    values = nearest(grouped / np.where(scales != 0, scales, 1)[..., None, :], kind)
    return matrix_of(values.reshape(flat.shape), scales, kind, weights.shape, dtype)


def scales_of(weights: np.ndarray, kind: str) -> np.ndarray:
    """float32 `[..., O]`: what the values of weights `[..., I, O]` are multiplied by."""
    if kind != "int4":
        return np.abs(weights).max(axis=-2) / np.float32(LARGEST[kind])
    place = np.abs(weights).argmax(axis=-2, keepdims=True)
    return np.take_along_axis(weights, place, axis=-2)[..., 0, :] / np.float32(-8)


def nearest(steps: np.ndarray, kind: str) -> np.ndarray:
    """The values of a kind that are nearest, in fp32."""
    if kind == "fp8":
        clipped = np.clip(steps, -LARGEST[kind], LARGEST[kind])
        return clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    low, high = (-8, 7) if kind == "int4" else (-LARGEST[kind], LARGEST[kind])
    return np.clip(np.rint(steps), low, high).astype(np.float32)


def matrix_of(
    values: np.ndarray,
    scales: np.ndarray,
    kind: str,
    shape: tuple[int, ...],
    dtype: str,
    factors: np.ndarray | None = None,
) -> QuantizedMatrix:
    """A matrix of values `[(E,) I, O]` that are a kind's already, stored as the kind is.

    Args:
        scales: `[(E,) O]`; of int4 `[(E,) G, O]`.
        shape, dtype: of the array whose place it takes.
        factors: `[I]`, of its inputs.
    """
    if kind == "int4":
        low, high = np.split((values + 8).astype(np.uint8), 2, axis=-2)
        stored = low | high << 4
    else:
        stored = values.astype(np.int8 if kind == "int8" else ml_dtypes.float8_e4m3fn)
    return QuantizedMatrix(
        stored, scales.astype(np.float32), shape=tuple(shape), dtype=dtype, factors=factors
    )


def kept_as(inputs: int, kind: str) -> tuple[str, int | None]:
    """The kind that a matrix of so many inputs is rounded as, and its group."""
    group = group_size(inputs, kind)
    return "int8" if kind == "int4" and group is None else kind, group


def group_size(inputs: int, kind: str) -> int | None:
    """Inputs that share a scale of int4; None of other kinds, and where no group divides them."""
    if kind != "int4":
        return None
    return next((size for size in GROUPS if inputs % (2 * size) == 0), None)


def stored_bytes(path: str, shape: tuple[int, ...], kind: str) -> int:
    """Bytes of a rounded parameter, its scales counted."""
    *lead, inputs, outputs = flat_shape(path, shape)
    group = group_size(inputs, kind)
    if group is None:
        return math.prod(lead) * outputs * (inputs + SCALE_BYTES)
    return math.prod(lead) * outputs * (inputs // 2 + SCALE_BYTES * inputs // group)


def quantise_params(params: Params, kind: str = "int8") -> Params:
    """The parameters with what is rounded as `kind`; parameters that are rounded already stay."""

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if is_quantized(leaf) or not quantises(name):
            return leaf
        rounded = quantise(name, np.asarray(leaf.astype(jnp.float32)), str(leaf.dtype), kind)
        return jax.device_put(rounded)

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_quantized)


def refuse_quantized(params: Params, purpose: str) -> None:
    """Raise `UnsupportedError` where a change of weights would meet rounded ones."""
    if any(map(is_quantized, jax.tree.leaves(params, is_leaf=is_quantized))):
        raise UnsupportedError(
            f"{purpose} changes weights, and these are rounded; load the model without quantization"
        )


def flat_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`[(E,) I, O]` of a parameter that is rounded."""
    block, _, name = path.rpartition(".")
    if len(shape) == 3 and block.endswith((".mlp", ".experts_beside")) and name != "gate_up":
        return shape  # of experts
    split = num_input_axes(path, shape)
    return math.prod(shape[:split]), math.prod(shape[split:])


def num_input_axes(path: str, shape: tuple[int, ...]) -> int:
    """Axes of a parameter, not of experts, that are inputs; they stand before its outputs."""
    return len(shape) - 1 if path.endswith(".o") else 1  # `o` is [heads, head, outputs].
