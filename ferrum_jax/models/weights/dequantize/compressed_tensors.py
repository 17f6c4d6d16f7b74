"""compressed-tensors: integers and small floats with scales by tensor, row, group or block.

Of a matrix `NAME` [out, in] there is one of
  `NAME_packed` int32 [out, in * bits / 32]: integers of up to 8 bits, 2^(bits - 1) above their
      value, packed along the inputs;
  `NAME_packed` uint8 [out, in / 2]: two e2m1 numbers a byte, the low half first;
  `NAME` itself in int8 or float8_e4m3;
and beside it `NAME_scale`: one number, [out, 1], [out, groups] or [out / rows, in / columns] of
blocks, in a float dtype, in float8 (with one `NAME_global_scale` that divides it: nvfp4) or as
exponents of two in uint8, 127 above their value (mxfp4, mxfp8). `NAME_zero_point` is subtracted
from integers; it is packed along the outputs where they are. `NAME_g_idx` [in] names the group of
each input where they are not in order, and `NAME_shape` is [out, in].

`NAME_input_factor` float32 [in] is ours (`save_quantized.py`): what each input's weights are
multiplied by as well.

Scales of activations and of a cache go unused: activations are never rounded.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.weights.dequantize.base import Dequantized, in_strips
from ferrum_jax.models.weights.dequantize.bits import num_words, unpack
from ferrum_jax.models.weights.dequantize.mxfp4 import E2M1_PAIRS
from ferrum_jax.types import WeightError

_PACKED, _SCALE = "_packed", "_scale"
FACTORS = "_input_factor"
_PARTS = (_PACKED, _SCALE, "_global_scale", "_zero_point", "_g_idx", "_shape", FACTORS)
_UNUSED = tuple(
    f".{of}_{kind}"
    for of in ("input", "output", "q", "k", "v")
    for kind in ("scale", "zero_point", "global_scale")
)


class CompressedWeights(Dequantized):
    """Reads `NAME` [out, in] of its parts."""

    def __init__(
        self, source: WeightSource, bits: tuple[int, ...], block: tuple[int, int] | None
    ) -> None:
        """Args:
        bits: that integers in words may have; their shapes tell which.
        block: rows and columns that share a scale, where scales are by blocks.
        """
        names = set(source.names())
        made = {n: n.removesuffix(_PACKED) for n in names if n.endswith(f".weight{_PACKED}")}
        made |= {
            n: n for n in names if n.endswith(".weight") and f"{n}{_SCALE}" in names - made.keys()
        }
        parts = {f"{name}{part}" for name in made.values() for part in _PARTS}
        unused = {name for name in names if name.endswith(_UNUSED)}
        super().__init__(source, made, (parts & names) | unused)
        self._names, self._bits, self._block = names, bits, block
        for stored, name in sorted(made.items()):
            self._check(stored, name)

    def _check(self, stored: str, name: str) -> None:
        if f"{name}{_SCALE}" not in self._names:
            raise WeightError(f"{self.location}: {stored} has no {name}{_SCALE} beside it")
        if len(self._source.shape(stored)) != 2:
            raise self._misfit(stored, says="a matrix; stacks of them are not read")
        rows, columns = self._made_shape(name)
        dtype = self._source.dtype(stored)
        packed = stored != name
        if dtype not in ((np.int32, np.uint8) if packed else (np.int8, ml_dtypes.float8_e4m3fn)):
            raise WeightError(
                f"{self.location}: {stored} has dtype {dtype}; known are int32 and uint8 of "
                "packed weights, and int8 and float8_e4m3fn of others"
            )
        if packed and dtype == np.int32:
            self._bits_of(name)
        scales = self._source.shape(f"{name}{_SCALE}")
        by_groups = len(scales) == 2 and scales[0] == rows
        by_blocks = self._block is not None and scales == (
            -(-rows // self._block[0]),
            -(-columns // self._block[1]),
        )
        in_order = f"{name}_g_idx" in self._names or (scales and columns % scales[-1] == 0)
        if not (
            math.prod(scales) == 1 or scales == (rows,) or (by_groups and in_order) or by_blocks
        ):
            raise self._misfit(stored, f"{name}{_SCALE}", says="a scale by row, group or block")

    def _made_shape(self, name: str) -> tuple[int, ...]:
        packed = f"{name}{_PACKED}"
        if packed not in self._names:
            return self._source.shape(name)
        if f"{name}_shape" in self._names:
            return tuple(int(n) for n in self._source.read(f"{name}_shape"))
        if self._source.dtype(packed) == np.uint8:
            rows, half = self._source.shape(packed)
            return rows, 2 * half
        raise WeightError(f"{self.location}: {packed} has no {name}_shape beside it")

    def _bits_of(self, name: str) -> int:
        rows, columns = self._made_shape(name)
        for bits in self._bits:
            if self._source.shape(f"{name}{_PACKED}") == (rows, num_words(columns, bits)):
                return bits
        says = f"{rows} x {columns} integers of {' or '.join(map(str, self._bits))} bits"
        raise self._misfit(f"{name}{_PACKED}", says=says)

    def rounded(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """The values of a matrix and the scale of each, both `[out, in]`; None: it has zero points
        or groups out of order, or is not rounded."""
        parts = {f"{name}_zero_point", f"{name}_g_idx", f"{name}_global_scale"}
        if name not in self._made or parts & self._names:
            return None
        scales = self._spread(self._scales(name), name)
        rows, columns = self._made_shape(name)
        wide = in_strips((rows, columns), scales)
        return self._numbers(name, None, None), wide

    def factors(self, name: str) -> NDArray[np.float32] | None:
        """The factor of each weight of a matrix, `[out, in]`; None: it has none."""
        if f"{name}{FACTORS}" not in self._names:
            return None
        return np.broadcast_to(self._source.read(f"{name}{FACTORS}"), self._made_shape(name))

    def _make(self, name: str) -> NDArray[np.float32]:
        scales = self._spread(self._scales(name), name)
        zeros, factors = self._zeros(name), self.factors(name)
        spread = None if zeros is None else self._spread(zeros, name)
        numbers = self._numbers(name, scales, spread)
        return numbers if factors is None else numbers * factors

    def _numbers(self, name: str, scales: Any, zeros: Any) -> NDArray[np.float32]:
        """What is stored, less its zero points and times its scales."""
        rows, columns = self._made_shape(name)
        stored = self._source.read(f"{name}{_PACKED}" if self._is_packed(name) else name)
        bits = self._bits_of(name) if stored.dtype == np.int32 else 0

        def strip_of(strip: slice) -> np.ndarray:
            if bits:
                numbers = unpack(stored[strip], bits, columns).astype(np.float32)
                numbers -= 1 << (bits - 1)
            elif stored.dtype == np.uint8:
                numbers = E2M1_PAIRS[stored[strip]].reshape(-1, columns)
            else:
                numbers = stored[strip].astype(np.float32)
            if zeros is not None:
                numbers = numbers - zeros(strip)
            return numbers if scales is None else numbers * scales(strip)

        return in_strips((rows, columns), strip_of)

    def _is_packed(self, name: str) -> bool:
        return f"{name}{_PACKED}" in self._names

    def _scales(self, name: str) -> NDArray[np.float32]:
        stored = self._source.read(f"{name}{_SCALE}")
        if stored.dtype == np.uint8:
            return np.ldexp(np.float32(1), stored.astype(np.int32) - 127)
        scales = stored.astype(np.float32)
        if f"{name}_global_scale" in self._names:
            scales = scales / self._source.read(f"{name}_global_scale").astype(np.float32).item()
        return scales

    def _zeros(self, name: str) -> NDArray[np.float32] | None:
        if f"{name}_zero_point" not in self._names:
            return None
        stored = self._source.read(f"{name}_zero_point")
        if stored.dtype != np.int32 or not self._is_packed(name):
            return stored.astype(np.float32)
        bits, rows = self._bits_of(name), self._made_shape(name)[0]
        return unpack(stored.T, bits, rows).T.astype(np.float32) - (1 << (bits - 1))

    def _spread(self, values: np.ndarray, name: str) -> Any:
        """A function from a slice of rows to what each of their weights has of `values`."""
        rows, columns = self._made_shape(name)
        if values.size == 1:
            return lambda strip: values.reshape(())
        if values.ndim == 1:
            values = values[:, None]
        if values.shape[0] != rows:
            assert self._block is not None
            height, width = self._block
            wide = np.repeat(values, width, axis=1)[:, :columns]
            return lambda strip: wide[np.arange(*strip.indices(rows)) // height]
        if f"{name}_g_idx" in self._names:
            group = self._source.read(f"{name}_g_idx").astype(np.int64)
        else:
            group = np.arange(columns) // (columns // values.shape[1])
        return lambda strip: values[strip][:, group]
