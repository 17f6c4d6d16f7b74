"""GPTQ: integers of 2, 3, 4 or 8 bits, with a scale and a zero for each group of input channels.

Of a linear layer `NAME` there are `NAME.qweight` [in * bits / 32, out], packed along its inputs;
`NAME.qzeros` [groups, out * bits / 32], packed along its outputs; `NAME.scales` [groups, out] and,
where inputs are not in the order of their groups, `NAME.g_idx` [in]. The weight is
`scale * (integer - zero)` (Frantar et al. 2022; the files are AutoGPTQ's and GPTQModel's).

The first format stores each zero less one, modulo 2^bits. A stored 15 of 4 bits thus means a zero
of 0: none is 16, since zeros are integers of the same range as the weights'.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.weights.dequantize.base import Dequantized, in_strips
from ferrum_jax.models.weights.dequantize.bits import num_words, unpack
from ferrum_jax.types import WeightError

_PARTS = ("qweight", "qzeros", "scales", "g_idx")


class GptqWeights(Dequantized):
    """Reads `NAME.weight` [out, in] of the parts."""

    def __init__(self, source: WeightSource, bits: tuple[int, ...], zero_offset: int) -> None:
        """Args:
        bits: that a layer's integers may have; its shapes tell which.
        zero_offset: what a stored zero lacks.
        """
        names = set(source.names())
        layers = {n.removesuffix(".qweight") for n in names if n.endswith(".qweight")}
        parts = {f"{layer}.{part}" for layer in layers for part in _PARTS}
        made = {f"{layer}.qweight": f"{layer}.weight" for layer in layers}
        super().__init__(source, made, parts & names)
        self._bits, self._zero_offset = bits, zero_offset
        for layer in sorted(layers):
            missing = {f"{layer}.qzeros", f"{layer}.scales"} - names
            if missing:
                raise WeightError(
                    f"{self.location}: {layer}.qweight has no {' and no '.join(sorted(missing))} "
                    "beside it, and GPTQ needs them"
                )
            self._layout(layer)

    def _layout(self, layer: str) -> tuple[int, int, int]:
        """Bits, inputs and outputs of a layer."""
        words, outputs = self._source.shape(f"{layer}.qweight")
        groups = self._source.shape(f"{layer}.scales")[0]
        zeros = self._source.shape(f"{layer}.qzeros")
        for bits in self._bits:
            inputs = words * 32 // bits
            index = f"{layer}.g_idx" in self._hidden
            fits = not index or self._source.shape(f"{layer}.g_idx") == (inputs,)
            if fits and zeros == (groups, num_words(outputs, bits)) and inputs >= groups > 0:
                return bits, inputs, outputs
        parts = [f"{layer}.{part}" for part in ("qweight", "qzeros", "scales")]
        raise self._misfit(*parts, says=f"a matrix in {' or '.join(map(str, self._bits))} bits")

    def _made_shape(self, name: str) -> tuple[int, ...]:
        _, inputs, outputs = self._layout(name.removesuffix(".weight"))
        return outputs, inputs

    def _make(self, name: str) -> NDArray[np.float32]:
        layer = name.removesuffix(".weight")
        bits, inputs, outputs = self._layout(layer)
        scales = self._source.read(f"{layer}.scales").astype(np.float32)
        stored = unpack(self._source.read(f"{layer}.qzeros"), bits, outputs).astype(np.int32)
        zeros = ((stored + self._zero_offset) & ((1 << bits) - 1)).astype(np.float32)
        if f"{layer}.g_idx" in self._hidden:
            group = self._source.read(f"{layer}.g_idx").astype(np.int64)
            if group.min() < 0 or group.max() >= len(scales):
                raise WeightError(
                    f"{self.location}: {layer}.g_idx names group {group.max()} of {len(scales)}"
                )
        else:
            group = np.arange(inputs) // -(-inputs // len(scales))
        words = np.ascontiguousarray(self._source.read(f"{layer}.qweight").T)

        def strip_of(rows: slice) -> np.ndarray:
            integers = unpack(words[rows], bits, inputs).astype(np.float32)
            return (integers - zeros.T[rows][:, group]) * scales.T[rows][:, group]

        return in_strips((outputs, inputs), strip_of)
