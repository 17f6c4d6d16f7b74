"""`quantization_config`: which ways of storing weights are read; the others are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ferrum_jax.types import ConfigError, UnsupportedError

FP8_FORMATS = ("e4m3", "float8_e4m3fn")
"""What files call the one kind of float8 that they hold."""


@dataclass(frozen=True)
class StoredQuantization:
    """How the weights of a checkpoint are stored; they are dequantised as they are read."""

    method: str
    """`fp8` or `mxfp4`"""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale, of fp8; None: one scale a tensor."""


def read_quantization(raw: dict[str, Any], where: str) -> StoredQuantization | None:
    """How the weights of a `config.json` are stored; None: as ordinary floating-point numbers.

    Activations are never quantised, whatever the file says of them: the model that is loaded is
    the one with the dequantised weights.

    Raises:
        UnsupportedError: a method, or a variant of one, that is not read.
        ConfigError: a block size that is none.
    """
    for key in ("quantization_config", "compression_config"):
        if raw.get(key):
            return _method(key, raw[key], raw.get("model_type"), where)
    return None


def _method(key: str, value: Any, model_type: Any, where: str) -> StoredQuantization:
    settings = value if isinstance(value, dict) else {}
    method = settings.get("quant_method")
    if method == "mxfp4" and model_type == "gpt_oss":
        return StoredQuantization("mxfp4")
    if method == "fp8" and settings.get("fmt", "e4m3") in FP8_FORMATS:
        return StoredQuantization("fp8", _block(settings.get("weight_block_size"), where))
    named = f"quant_method = {method!r}" if method else repr(value)
    raise UnsupportedError(
        f"{where}: {key} has {named}, which is not read for model_type {model_type!r}; known are "
        "fp8 (e4m3) with a scale per block or tensor, and mxfp4 of gpt_oss. Give a checkpoint of "
        "the same model in bfloat16, float16 or float32, or dequantise this one and save it"
    )


def _block(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    good = isinstance(value, list | tuple) and len(value) == 2
    if not good or not all(type(size) is int and size > 0 for size in value):
        raise ConfigError(
            f"{where}: weight_block_size is {value!r}; it must be two positive integers or null"
        )
    return value[0], value[1]
