"""Weights rounded with a calibration: `quantize`; and kept: `save_quantized`."""

from ferrum_jax.runtime.quantize.calibrate import quantize
from ferrum_jax.runtime.quantize.saving import save_quantized

__all__ = ["quantize", "save_quantized"]
