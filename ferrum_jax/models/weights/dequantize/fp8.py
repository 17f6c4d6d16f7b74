"""fp8: a tensor in float8_e4m3 and beside it `NAME_scale_inv`, which has one factor for each block
of rows and columns, or one for the whole tensor (DeepSeek-AI 2024, section 3.3)."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.weights.dequantize.base import Dequantized
from ferrum_jax.types import WeightError

_FACTORS = "_scale_inv"
_OF_ACTIVATIONS = "activation_scale"
"""Ends of the names of scales for activations, which go unused."""
_E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
"""The number of each byte."""


class Fp8Weights(Dequantized):
    """Tensors with a factor for each block of `block` rows and columns, or one for all."""

    def __init__(self, source: WeightSource, block: tuple[int, int] | None) -> None:
        names = set(source.names())
        factors = {name for name in names if name.endswith(_FACTORS)}
        made = {name.removesuffix(_FACTORS) for name in factors} & names
        unused = {name for name in names if name.endswith(_OF_ACTIVATIONS)}
        hidden = {f"{name}{_FACTORS}" for name in made} | unused
        super().__init__(source, {name: name for name in made}, hidden)
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

    def _made_shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

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
