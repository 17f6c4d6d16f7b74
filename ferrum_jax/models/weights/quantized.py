"""Checkpoints in fp8 and mxfp4, read as floating-point numbers.

fp8: a tensor in float8_e4m3 and beside it `NAME_scale_inv`, which has one factor for each block of
rows and columns, or one for the whole tensor (DeepSeek-AI 2024, section 3.3).
mxfp4: `NAME_blocks` [E, out, in / 32, 16], bytes of two e2m1 numbers each, the low half first, and
`NAME_scales` [E, out, in / 32], the exponents of 32 numbers each, 127 above their value (Open
Compute Project, Microscaling Formats, 2023). Read as `NAME` [E, in, out].
"""

from __future__ import annotations

import math
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.families.quantization import StoredQuantization
from ferrum_jax.models.weights.files import unknown_tensor
from ferrum_jax.types import WeightError

_FACTORS = "_scale_inv"
_OF_ACTIVATIONS = "activation_scale"
"""Ends of the names of scales for activations, which stay as they are."""
_E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
"""The number of each byte."""
_BLOCKS, _EXPONENTS = "_blocks", "_scales"
_BLOCK_BYTES = 16
_STRIP = 64
"""Rows at a time, so that what is made on the way stays in cache."""
_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
_HALF_BYTES = np.concatenate([_E2M1, -_E2M1])
_BYTES = np.stack([np.tile(_HALF_BYTES, 16), np.repeat(_HALF_BYTES, 16)], axis=1)
"""Both numbers of each byte."""
_PAIRS = _BYTES.astype(ml_dtypes.bfloat16).view(np.uint32)[:, 0]
"""The same as two bfloat16 in one word."""
_EXPONENT_BITS = np.where(_BYTES != 0, 0xFFFF, 0).astype(np.uint16).view(np.uint32)[:, 0]
"""Where an exponent may be added to them: a zero has none."""


def dequantized(source: WeightSource, stored: StoredQuantization | None) -> WeightSource:
    """The same checkpoint as floating-point numbers."""
    if stored is None:
        return source
    if stored.method == "mxfp4":
        return Mxfp4Weights(source)
    return Fp8Weights(source, stored.block)


class _Dequantized:
    """What both have of a `WeightSource`; a subclass says which tensors are made, and how."""

    def __init__(self, source: WeightSource, made: set[str], hidden: set[str]) -> None:
        self._source, self._made, self._hidden = source, made, hidden
        self.location = source.location
        self.nbytes = source.nbytes
        self.max_file_bytes = source.max_file_bytes

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._source.names() if name not in self._hidden)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._known(name))

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32) if name in self._made else self._source.dtype(self._known(name))

    def read(self, name: str) -> NDArray[Any]:
        return self._make(name) if name in self._made else self._source.read(self._known(name))

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _known(self, name: str) -> str:
        if name in self._hidden:
            raise unknown_tensor(self.location, name, self.names())
        return name

    def _make(self, name: str) -> NDArray[Any]:
        raise NotImplementedError


class Fp8Weights(_Dequantized):
    """Tensors with a factor for each block of `block` rows and columns, or one for all."""

    def __init__(self, source: WeightSource, block: tuple[int, int] | None) -> None:
        names = set(source.names())
        factors = {name for name in names if name.endswith(_FACTORS)}
        made = {name.removesuffix(_FACTORS) for name in factors} & names
        unused = {name for name in names if name.endswith(_OF_ACTIVATIONS)}
        super().__init__(source, made, {f"{name}{_FACTORS}" for name in made} | unused)
        self._block = block
        for name in sorted(names):
            self._check(name)

    def _check(self, name: str) -> None:
        eight = self._source.dtype(name) == ml_dtypes.float8_e4m3fn
        if eight != (name in self._made):
            have = "in float8 and has no" if eight else "not in float8 and has a"
            raise WeightError(
                f"{self.location}: {name} is {have} {name}{_FACTORS}, and config.json says that "
                "the weights are fp8 with such factors; give a checkpoint in bfloat16"
            )
        if eight:
            self._blocks(name)

    def _blocks(self, name: str) -> tuple[int, int] | None:
        """Rows and columns of a block; None: one factor for all."""
        shape, factors = self._source.shape(name), self._source.shape(f"{name}{_FACTORS}")
        if math.prod(factors) == 1 and self._block is None:
            return None
        if self._block is not None and len(shape) >= 2:
            tiles = tuple(-(-n // size) for n, size in zip(shape[-2:], self._block, strict=True))
            if factors == (*shape[:-2], *tiles):
                return self._block
        raise WeightError(
            f"{self.location}: {name} is {shape} and its factors are {factors}, which is not one "
            f"for each block of {self._block or 'the whole tensor'}; check that the weights and "
            "config.json belong together"
        )

    def _make(self, name: str) -> NDArray[Any]:
        stored, block = self._source.read(name), self._blocks(name)
        factors = self._source.read(f"{name}{_FACTORS}").astype(np.float32)
        codes = stored.view(np.uint8)
        if block is None:
            return _E4M3[codes] * factors.reshape(())
        rows, columns = block
        result = np.empty(stored.shape, np.float32)
        matrices, bytes_of = (x.reshape(-1, *x.shape[-2:]) for x in (result, codes))
        tiles = factors.reshape(-1, *factors.shape[-2:])
        for matrix, code, tile in zip(matrices, bytes_of, tiles, strict=True):
            for i, row in enumerate(tile):
                strip = slice(i * rows, (i + 1) * rows)
                scale = np.repeat(row, columns)[: matrix.shape[1]]
                np.multiply(_E4M3[code[strip]], scale, out=matrix[strip])
        return result


class Mxfp4Weights(_Dequantized):
    """Pairs of `NAME_blocks` and `NAME_scales`, read as `NAME`."""

    def __init__(self, source: WeightSource) -> None:
        names = set(source.names())
        made = {
            name.removesuffix(_BLOCKS)
            for name in names
            if name.endswith(_BLOCKS) and name.removesuffix(_BLOCKS) + _EXPONENTS in names
        }
        super().__init__(
            source, made, {f"{n}{kind}" for n in made for kind in (_BLOCKS, _EXPONENTS)}
        )
        self._last: tuple[str, Any] = ("", None)
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

    def names(self) -> tuple[str, ...]:
        """Each pair stands where its blocks do."""
        made = {f"{name}{_BLOCKS}": name for name in self._made}
        return tuple(
            made.get(name, name)
            for name in self._source.names()
            if name in made or name not in self._hidden
        )

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._made:
            return super().shape(name)
        experts, rows, groups, _ = self._source.shape(f"{name}{_BLOCKS}")
        return experts, 2 * _BLOCK_BYTES * groups, rows

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(ml_dtypes.bfloat16) if name in self._made else super().dtype(name)

    def read(self, name: str) -> NDArray[Any]:
        """The last one is kept until another is read: gate and up stand in one tensor."""
        if name != self._last[0]:
            self._last = ("", None)
            self._last = (name, super().read(name))
        return self._last[1]

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
            for start in range(0, rows, _STRIP):
                strip = slice(start, start + _STRIP)
                expert[strip] = convert(packed[strip], powers[strip]).reshape(-1, expert.shape[1])
        return result.swapaxes(1, 2)


def _by_bits(packed: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Numbers times powers of two that leave the range of bfloat16 nowhere: sums of exponents."""
    shift = ((powers.astype(np.int32) - 127) << 7).astype(np.uint16).astype(np.uint32)
    both = (shift | shift << 16)[..., None] & _EXPONENT_BITS[packed]
    return (_PAIRS[packed].view(np.uint16) + both.view(np.uint16)).view(ml_dtypes.bfloat16)


def _by_value(packed: np.ndarray, powers: np.ndarray) -> np.ndarray:
    numbers = _BYTES[packed].reshape(*powers.shape, -1)
    with np.errstate(over="ignore"):
        return np.ldexp(numbers, powers[..., None].astype(np.int32) - 127)
