"""AWQ: integers of 4 bits, with a scale and a zero for each group of input channels.

Of a linear layer `NAME` there are `NAME.qweight` [in, out / 8], `NAME.qzeros` [groups, out / 8] and
`NAME.scales` [groups, out]. A word holds eight outputs, in the order 0 2 4 6 1 3 5 7 from the
lowest bits on. The weight is `scale * (integer - zero)` (Lin et al. 2023; the files are AutoAWQ's,
version `gemm`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.weights.dequantize.base import Dequantized
from ferrum_jax.models.weights.dequantize.bits import unpack
from ferrum_jax.types import WeightError

_PARTS = ("qweight", "qzeros", "scales")
_PLACES = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])
"""Where in a word each of its outputs stands."""


class AwqWeights(Dequantized):
    """Reads `NAME.weight` [out, in] of the parts."""

    def __init__(self, source: WeightSource) -> None:
        names = set(source.names())
        layers = {n.removesuffix(".qweight") for n in names if n.endswith(".qweight")}
        parts = {f"{layer}.{part}" for layer in layers for part in _PARTS}
        super().__init__(source, {f"{n}.qweight": f"{n}.weight" for n in layers}, parts & names)
        if missing := parts - names:
            raise WeightError(
                f"{self.location}: {', '.join(sorted(missing)[:5])} missing, and AWQ needs "
                "qweight, qzeros and scales of every layer that has one of them"
            )
        for layer in sorted(layers):
            self._check(layer)

    def _check(self, layer: str) -> None:
        parts = [f"{layer}.{part}" for part in _PARTS]
        (inputs, words), zeros, scales = (self._source.shape(part) for part in parts)
        groups = scales[0]
        good = zeros == (groups, words) and scales == (groups, words * 8)
        if not good or not groups or inputs % groups:
            raise self._misfit(*parts, says="a matrix in 4 bits as AWQ's gemm version stores it")

    def _made_shape(self, name: str) -> tuple[int, ...]:
        inputs, words = self._source.shape(name.removesuffix("weight") + "qweight")
        return 8 * words, inputs

    def _make(self, name: str) -> NDArray[np.float32]:
        layer = name.removesuffix(".weight")
        words, packed, scales = (self._source.read(f"{layer}.{part}") for part in _PARTS)
        zeros, scales = _in_order(packed), scales.astype(np.float32)
        outputs, inputs = self._made_shape(name)
        size = inputs // len(scales)
        result = np.empty((outputs, inputs), np.float32)
        for i, (zero, scale) in enumerate(zip(zeros, scales, strict=True)):
            group = slice(i * size, (i + 1) * size)
            result[:, group] = ((_in_order(words[group]) - zero) * scale).T
        return result


def _in_order(words: np.ndarray) -> NDArray[np.float32]:
    integers = unpack(words, 4).reshape(len(words), -1, 8)[..., _PLACES]
    return integers.reshape(len(words), -1).astype(np.float32)
