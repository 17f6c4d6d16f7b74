"""mxfp4: `NAME_blocks` [E, out, in / 32, 16], bytes of two e2m1 numbers each, the low half first,
and `NAME_scales` [E, out, in / 32], the exponents of 32 numbers each, 127 above their value (Open
Compute Project, Microscaling Formats, 2023). Read as `NAME` [E, in, out].
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.weights.dequantize.base import STRIP, Dequantized
from ferrum_jax.types import WeightError

_BLOCKS, _EXPONENTS = "_blocks", "_scales"
_BLOCK_BYTES = 16
_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
_HALF_BYTES = np.concatenate([_E2M1, -_E2M1])
E2M1_PAIRS = np.stack([np.tile(_HALF_BYTES, 16), np.repeat(_HALF_BYTES, 16)], axis=1)
"""Both numbers of each byte."""
_PAIRS = E2M1_PAIRS.astype(ml_dtypes.bfloat16).view(np.uint32)[:, 0]
"""The same as two bfloat16 in one word."""
_EXPONENT_BITS = np.where(E2M1_PAIRS != 0, 0xFFFF, 0).astype(np.uint16).view(np.uint32)[:, 0]
"""Where an exponent may be added to them: a zero has none."""


class Mxfp4Weights(Dequantized):
    """Pairs of `NAME_blocks` and `NAME_scales`, read as `NAME`."""

    def __init__(self, source: WeightSource) -> None:
        names = set(source.names())
        made = {
            name.removesuffix(_BLOCKS)
            for name in names
            if name.endswith(_BLOCKS) and name.removesuffix(_BLOCKS) + _EXPONENTS in names
        }
        super().__init__(
            source, {f"{n}{_BLOCKS}": n for n in made}, {f"{n}{_EXPONENTS}" for n in made}
        )
        for name in sorted(made):
            self._check(name)

    def _check(self, name: str) -> None:
        parts = (f"{name}{_BLOCKS}", f"{name}{_EXPONENTS}")
        blocks, exponents = (self._source.shape(part) for part in parts)
        kinds = {self._source.dtype(part).name for part in parts}
        good = len(blocks) == 4 and blocks == (*exponents, _BLOCK_BYTES)
        if not good or kinds != {"uint8"}:
            raise WeightError(
                f"{self.location}: {parts[0]} is {blocks} and {parts[1]} is {exponents}, in "
                f"{' and '.join(sorted(kinds))}; mxfp4 has [E, out, in / 32, 16] and "
                "[E, out, in / 32] in uint8"
            )

    def _made_shape(self, name: str) -> tuple[int, ...]:
        experts, rows, groups, _ = self._source.shape(f"{name}{_BLOCKS}")
        return experts, 2 * _BLOCK_BYTES * groups, rows

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(ml_dtypes.bfloat16) if name in self._made else super().dtype(name)

    def _make(self, name: str) -> NDArray[Any]:
        """In bfloat16, which holds every one of these numbers that float32 does."""
        blocks = self._source.read(f"{name}{_BLOCKS}")
        exponents = self._source.read(f"{name}{_EXPONENTS}")
        experts, rows, groups = exponents.shape
        result = np.empty((experts, rows, 2 * _BLOCK_BYTES * groups), ml_dtypes.bfloat16)
        for expert, packed, powers in zip(result, blocks, exponents, strict=True):
            # The largest and the smallest number have exponents of 129 and 126 themselves.
            inside = powers.size == 0 or (powers.min() > 1 and powers.max() < 253)
            convert = _by_bits if inside else _by_value
            for start in range(0, rows, STRIP):
                strip = slice(start, start + STRIP)
                expert[strip] = convert(packed[strip], powers[strip]).reshape(-1, expert.shape[1])
        return result.swapaxes(1, 2)


def _by_bits(packed: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Numbers times powers of two that leave the range of bfloat16 nowhere: sums of exponents."""
    shift = ((powers.astype(np.int32) - 127) << 7).astype(np.uint16).astype(np.uint32)
    both = (shift | shift << 16)[..., None] & _EXPONENT_BITS[packed]
    return (_PAIRS[packed].view(np.uint16) + both.view(np.uint16)).view(ml_dtypes.bfloat16)


def _by_value(packed: np.ndarray, powers: np.ndarray) -> np.ndarray:
    numbers = E2M1_PAIRS[packed].reshape(*powers.shape, -1)
    with np.errstate(over="ignore"):
        return np.ldexp(numbers, powers[..., None].astype(np.int32) - 127)
