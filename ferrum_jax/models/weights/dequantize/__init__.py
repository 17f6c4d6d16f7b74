"""Checkpoints whose weights are stored as integers or small floats, read as ordinary ones.

A module a format; each makes a `WeightSource` of another.
"""

from __future__ import annotations

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.families.quantization import StoredQuantization
from ferrum_jax.models.weights.dequantize.awq import AwqWeights
from ferrum_jax.models.weights.dequantize.compressed_tensors import CompressedWeights
from ferrum_jax.models.weights.dequantize.fp8 import Fp8Weights
from ferrum_jax.models.weights.dequantize.gptq import GptqWeights
from ferrum_jax.models.weights.dequantize.mxfp4 import Mxfp4Weights

__all__ = ["dequantized"]


def dequantized(source: WeightSource, stored: StoredQuantization | None) -> WeightSource:
    """The same checkpoint as floating-point numbers.

    Raises:
        WeightError: tensors that do not belong together, all names and shapes checked.
    """
    match stored:
        case None:
            return source
        case StoredQuantization("mxfp4"):
            return Mxfp4Weights(source)
        case StoredQuantization("gptq"):
            return GptqWeights(source, stored.bits, stored.zero_offset)
        case StoredQuantization("awq"):
            return AwqWeights(source)
        case StoredQuantization("compressed-tensors"):
            return CompressedWeights(source, stored.bits, stored.block)
        case _:
            return Fp8Weights(source, stored.block)
