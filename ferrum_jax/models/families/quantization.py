"""`quantization_config`: which ways of storing weights are read; the others are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ferrum_jax.types import ConfigError, UnsupportedError

FP8_FORMATS = ("e4m3", "float8_e4m3fn")
"""What files call the one kind of float8 that they hold."""
GPTQ_BITS = (2, 3, 4, 8)
GPTQ_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}
"""What a stored zero lacks, by the format."""
TRANSPOSED_TYPES = ("gpt2",)
"""Whose linear layers are stored [in, out], and rounded in ways that their own files tell."""
COMPRESSED_FORMATS = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
    "dense",
)
COMPRESSED = "compressed-tensors"
WITH_FACTORS = "compressed-tensors-with-input-factors"
"""What `fj.save_quantized` writes for weights of AWQ."""


@dataclass(frozen=True)
class StoredQuantization:
    """How the weights of a checkpoint are stored; they are dequantised as they are read."""

    method: str
    """`fp8`, `mxfp4`, `gptq`, `awq` or `compressed-tensors`"""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale; None: one scale a tensor, or as shapes tell."""
    bits: tuple[int, ...] = ()
    """Of integers; of several, shapes tell which."""
    zero_offset: int = 0
    """What a stored zero of GPTQ lacks."""


def read_quantization(raw: dict[str, Any], where: str) -> StoredQuantization | None:
    """How the weights of a `config.json` are stored; None: as ordinary floating-point numbers.

    Activations are never quantised, whatever the file says of them: the model that is loaded is
    the one with the dequantised weights.

    Raises:
        UnsupportedError: a method, or a variant of one, that is not read.
        ConfigError: a block size or a number of bits that is none.
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
    if method == "gptq" and (read := _gptq(settings, model_type, where)) is not None:
        return read
    if method == "awq" and _is_awq_gemm(settings) and model_type not in TRANSPOSED_TYPES:
        return StoredQuantization("awq")
    if method in (COMPRESSED, WITH_FACTORS) and (read := _compressed(settings, where)) is not None:
        return read
    shown = {name: settings[name] for name in _TELLING if name in settings}
    named = ", ".join(f"{name} = {value!r}" for name, value in shown.items()) or repr(value)
    raise UnsupportedError(
        f"{where}: {key} has {named}, which is not read for model_type {model_type!r}; known are "
        "fp8 (e4m3) with a scale per block or tensor, mxfp4 of gpt_oss, gptq and gptq_v2 of 2, 3, "
        "4 or 8 bits, awq of version gemm, and compressed-tensors without sparsity or transforms. "
        "Give a checkpoint of the same model in bfloat16, float16 or float32, or dequantise this "
        "one and save it"
    )


_TELLING = (
    "quant_method",
    "bits",
    "checkpoint_format",
    "version",
    "zero_point",
    "format",
    "sparsity_config",
    "transform_config",
    "quantization_status",
    "fmt",
)
"""Settings that an error shows."""


def _gptq(settings: dict[str, Any], model_type: Any, where: str) -> StoredQuantization | None:
    stored = settings.get("checkpoint_format", settings.get("format", "gptq"))
    if stored not in GPTQ_ZERO_OFFSETS or model_type in TRANSPOSED_TYPES:
        return None
    bits = _bits(settings.get("bits"), where)
    if bits not in GPTQ_BITS:
        return None
    # Some layers may have others than `bits`, by rules for their names.
    return StoredQuantization(
        "gptq",
        bits=(bits, *(b for b in GPTQ_BITS if b != bits and settings.get("dynamic"))),
        zero_offset=GPTQ_ZERO_OFFSETS[stored],
    )


def _is_awq_gemm(settings: dict[str, Any]) -> bool:
    bits = settings.get("bits", settings.get("w_bit", 4))
    version = str(settings.get("version", "gemm")).lower()
    return bits == 4 and version == "gemm" and bool(settings.get("zero_point", True))


def _compressed(settings: dict[str, Any], where: str) -> StoredQuantization | None:
    """None: its weights are sparse, rotated, in a format that is not known or not compressed."""
    sparsity, groups = settings.get("sparsity_config") or {}, settings.get("config_groups") or {}
    transforms = settings.get("transform_config") or {}
    status = settings.get("quantization_status", "compressed")
    is_sparse = isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense"
    rotates = isinstance(transforms, dict) and any(transforms.values())
    known = settings.get("format", "dense") in COMPRESSED_FORMATS
    if not known or is_sparse or rotates or status != "compressed":
        return None
    weights = [group.get("weights") or {} for group in groups.values()]
    bits = {_bits(w["num_bits"], where) for w in weights if w.get("type") == "int"}
    blocks = {_block(w["block_structure"], where) for w in weights if w.get("block_structure")}
    if len(blocks) > 1 or any(group.get("format") == "marlin-24" for group in groups.values()):
        return None
    return StoredQuantization(
        COMPRESSED,
        block=next(iter(blocks), None),
        bits=tuple(sorted(bits, reverse=True)),
    )


def _bits(value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= 8:
        raise ConfigError(f"{where}: a weight has {value!r} bits; it must be an integer, 1 to 8")
    return value


def _block(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    good = isinstance(value, list | tuple) and len(value) == 2
    if not good or not all(type(size) is int and size > 0 for size in value):
        raise ConfigError(
            f"{where}: weight_block_size is {value!r}; it must be two positive integers or null"
        )
    return value[0], value[1]
