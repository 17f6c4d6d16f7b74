"""Writes the random checkpoint shard by shard, so that one shard is in memory at a time."""

import json
import math
import os
from pathlib import Path

import ml_dtypes
import numpy as np
from config import Plan
from safetensors.numpy import save_file


def write(plan: Plan, directory: Path) -> int:
    """Writes config.json, the shards and their index; returns the bytes of all tensors."""
    (directory / "config.json").write_text(json.dumps(plan.hf_config()))
    rng, tensors, weight_map, total = np.random.default_rng(plan.seed), plan.tensors(), {}, 0
    names = list(tensors)
    for number in range(plan.shards):
        file = f"model-{number + 1:05d}-of-{plan.shards:05d}.safetensors"
        part = {name: _tensor(rng, tensors[name]) for name in _share(names, number, plan.shards)}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
        total += sum(array.nbytes for array in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _share(names: list[str], number: int, count: int) -> list[str]:
    size = math.ceil(len(names) / count)
    return names[number * size : (number + 1) * size]


def _tensor(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform, with a standard deviation of 1 / sqrt(fan_in); norms around one."""
    u = rng.random(shape, dtype=np.float32)
    if len(shape) == 1:
        return (u + np.float32(0.5)).astype(ml_dtypes.bfloat16)
    u -= np.float32(0.5)
    u *= np.float32(math.sqrt(12 / shape[-1]))
    return u.astype(ml_dtypes.bfloat16)


def forget(directory: Path) -> None:
    """Take the files out of the operating system's memory, as far as it allows that."""
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
