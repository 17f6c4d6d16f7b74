"""Writing a model with rounded weights: safetensors in the format of compressed-tensors.

Integers of 4 bits as `pack-quantized` with a scale per group, integers of 8 bits as `int-quantized`
and e4m3 as `float-quantized` with a scale per output: what vLLM and transformers read, and what
`LLM.load` takes over as it is. See `dequantize/compressed_tensors.py` for the tensors.

That format has no place for factors of inputs (AWQ). They get a tensor of their own, and such a
checkpoint another name of its quantisation, so that who does not know of them refuses to read it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from ferrum_jax.models.families import family_of
from ferrum_jax.models.families.quantization import COMPRESSED, WITH_FACTORS
from ferrum_jax.models.params import Params
from ferrum_jax.models.quantized import QuantizedMatrix, is_quantized
from ferrum_jax.models.shapes import check_params, path_name
from ferrum_jax.models.weights.dequantize.compressed_tensors import FACTORS
from ferrum_jax.models.weights.files import read_json
from ferrum_jax.models.weights.sources import put
from ferrum_jax.types import ModelConfig, UnsupportedError, WeightError

FORMATS = {"int4": "pack-quantized", "int8": "int-quantized", "fp8": "float-quantized"}
BESIDE = ("*.json", "*.model", "*.jinja", "*.txt")
"""Files beside weights that a checkpoint may need."""
WEIGHTS = ("model.safetensors.index.json",)
"""Of those, what belongs to the weights that were."""


@dataclass
class _Stored:
    """A matrix as a checkpoint has it, `[out, in]`, made from one parameter or several."""

    kind: str
    group: int | None
    values: np.ndarray
    scales: np.ndarray
    """of each weight"""
    factors: np.ndarray | None
    """of each weight"""


def save_quantized(config: ModelConfig, params: Params, like: Path, directory: Path) -> Path:
    """Write a checkpoint directory: weights, and what else the one that it is like has.

    Args:
        params: some of them rounded.
        like: the directory that the model was loaded from: its config.json and tokenizer.

    Returns:
        The path of the weights.

    Raises:
        ModelError: the parameters do not fit the config.
        WeightError: the directories are the same, or `like` has no config.json.
        UnsupportedError: nothing is rounded, or a rounded matrix is stored in a tensor that is
            none (stacks of experts, `[in, out]`).
    """
    from safetensors.numpy import save_file

    check_params(config, params)
    like, directory = Path(like), Path(directory)
    if like.resolve() == directory.resolve():
        raise WeightError(f"{directory} holds the model that this one was made from; name another")
    raw = read_json(like, "config.json")
    tensors, groups = _tensors(config, params, str(directory))
    if not groups:
        raise UnsupportedError("no weight of this model is rounded; save_weights writes it")
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in BESIDE:
        for file in like.glob(pattern):
            if file.name not in (*WEIGHTS, "config.json"):
                shutil.copyfile(file, directory / file.name)
    raw["quantization_config"] = _described(groups)
    if any(name.endswith(FACTORS) for name in tensors):
        raw["quantization_config"]["quant_method"] = WITH_FACTORS
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    path = directory / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def _tensors(
    config: ModelConfig, params: Params, where: str
) -> tuple[dict[str, np.ndarray], dict[tuple[str, int | None], list[str]]]:
    """All tensors by name, and the rounded modules by kind and group."""
    table = family_of(config.model_type, where).names(config)
    plain: dict[str, np.ndarray] = {}
    rounded: dict[str, _Stored] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized):
        entry = table[path_name(path)]
        for index, name in enumerate(entry.names):
            shape = entry.stored_shape(tuple(leaf.shape), index)
            if not is_quantized(leaf):
                value = np.asarray(leaf)
                put(entry, plain.setdefault(name, np.zeros(shape, value.dtype)), value, index)
                continue
            values, scales, factors = leaf.spread()
            if len(shape) != 2 or not name.endswith(".weight"):
                raise UnsupportedError(
                    f"{where}: {name} of shape {shape} holds rounded weights and is no matrix of "
                    "its own; such a model is not saved rounded"
                )
            made = rounded.setdefault(name, _stored(leaf, shape))
            put(entry, made.values, values, index)
            put(entry, made.scales, scales, index)
            if made.factors is not None:
                put(entry, made.factors, factors, index)
    groups: dict[tuple[str, int | None], list[str]] = {}
    for name, made in rounded.items():
        plain |= _parts(name, made, where)
        groups.setdefault((made.kind, made.group), []).append(name.removesuffix(".weight"))
    return plain, groups


def _stored(leaf: QuantizedMatrix, shape: tuple[int, ...]) -> _Stored:
    """Room for a matrix of the kind of a parameter that is part of it."""
    return _Stored(
        leaf.kind,
        leaf.group,
        np.zeros(shape, np.float32),
        np.ones(shape, np.float32),
        None if leaf.factors is None else np.ones(shape, np.float32),
    )


def _parts(name: str, made: _Stored, where: str) -> dict[str, np.ndarray]:
    """What stands in the file for a matrix."""
    columns = made.scales.shape[1]
    scales = made.scales[:, :: made.group or columns]
    along_inputs = np.repeat(scales, made.group or columns, axis=1)
    factors = made.factors
    if not np.array_equal(along_inputs, made.scales) or (
        factors is not None and (factors != factors[0]).any()
    ):
        raise UnsupportedError(
            f"{where}: {name} is not stored [out, in], and its scales are; it is not saved rounded"
        )
    found = {f"{name}_scale": np.ascontiguousarray(scales)}
    if factors is not None:
        found[f"{name}{FACTORS}"] = factors[0].copy()
    if made.kind != "int4":
        dtype = np.int8 if made.kind == "int8" else ml_dtypes.float8_e4m3fn
        return found | {name: made.values.astype(dtype)}
    nibbles = (made.values + 8).astype(np.uint8)
    packed = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    return found | {
        f"{name}_packed": np.ascontiguousarray(packed).view("<i4"),
        f"{name}_shape": np.asarray(made.values.shape, np.int64),
    }


def _described(groups: dict[tuple[str, int | None], list[str]]) -> dict[str, Any]:
    """`quantization_config` of config.json."""
    kinds = {kind for kind, _ in groups}
    return {
        "quant_method": COMPRESSED,
        "quantization_status": "compressed",
        "format": FORMATS[kinds.pop()] if len(kinds) == 1 else "mixed-precision",
        "config_groups": {
            f"group_{i}": {
                "targets": sorted(targets),
                "format": FORMATS[kind],
                "weights": {
                    "num_bits": 4 if kind == "int4" else 8,
                    "type": "float" if kind == "fp8" else "int",
                    "symmetric": True,
                    "strategy": "channel" if group is None else "group",
                    "group_size": group,
                },
            }
            for i, ((kind, group), targets) in enumerate(sorted(groups.items(), key=str))
        },
        "ignore": [],
    }
