"""Reads the golden files and rebuilds their checkpoints.

    golden = load_case("qwen3")
    write_checkpoint(golden, tmp_path)                  # config.json + model.safetensors
    ...                                                 # load it, run golden.sequences[0]
    np.abs(logits - golden.logits[0]).max()             # against golden.fp64_error, or 5e-5

Needs numpy, ml_dtypes and safetensors. `make_reference.py` wrote the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.parity.random_weights import make_tensor

GOLDEN = Path(__file__).parent / "golden"
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
TOLERANCE = 5e-5
"""Largest fp32 difference from transformers' eager forward that is allowed."""
DELTA_RULES = ("qwen3_next", "qwen3_5_text", "kimi_linear")
"""Model types whose recurrences round far more, in transformers itself too."""
DELTA_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Golden:
    """One case: a checkpoint, by its seed, and what transformers computes with it in float32.

    config: config.json as it stands in the checkpoint.
    tensors: checkpoint name -> (shape, stored dtype).
    shards: into how many files the case wants its checkpoint split.
    norm_low: an argument of `make_tensor`.
    sequences, logits: two int32 [T] and the float32 [T, V] of one uncached forward each.
    prompt, greedy: int32 ids; the argmax continuation, end-of-sequence tokens ignored.
    greedy_margin: the smallest top-1 to top-2 logit distance in it.
    router_gap: the smallest distance between a chosen and a rejected expert's logit; None if dense.
    fp64_error: max |logits - float64 logits| in transformers (`model.double()`).
    exact_error: the same with norms, softmax and rope in float64 as well.
    """

    name: str
    model_type: str
    seed: int
    shards: int
    norm_low: float
    config: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], str]]
    sequences: tuple[np.ndarray, np.ndarray]
    logits: tuple[np.ndarray, np.ndarray]
    prompt: np.ndarray
    greedy: np.ndarray
    greedy_margin: float
    router_gap: float | None
    fp64_error: float
    exact_error: float
    transformers: str
    torch: str


KINDS = (
    *("bloom", "deepseek_v2", "falcon_h1", "gemma3_text", "gemma4_text", "gpt2", "gpt_oss"),
    *("kimi_linear", "lfm2", "llama", "mamba", "mamba2", "minimax", "mixtral", "qwen3"),
    "qwen3_next",
)
"""Model types that have every kind of layer, cache and state between them: what is long and says
little of a type by itself runs for these, and for the others as `every_case` or `thorough`."""


def case_names(model_type: str | None = None) -> list[str]:
    """The names of all stored cases, or of those of one model_type, in alphabetical order."""
    names = sorted(path.stem for path in GOLDEN.glob("*.json"))
    return [n for n in names if model_type is None or load_case(n).model_type == model_type]


def first_cases() -> list[str]:
    """A case of each model type: the first by name."""
    by_type: dict[str, str] = {}
    for name in case_names():
        by_type.setdefault(load_case(name).model_type, name)
    return list(by_type.values())


@cache
def load_case(name: str) -> Golden:
    """The golden case `name`; raises KeyError for a name without golden files."""
    path = GOLDEN / f"{name}.json"
    if not path.exists():
        raise KeyError(f"no golden case {name!r}; there are {', '.join(case_names())}")
    record = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        a = {key: arrays[key] for key in arrays.files}
    for array in a.values():
        array.setflags(write=False)
    not_stored = {"logit_std", "rejected_seeds", "tensors"}
    return Golden(
        tensors={n: (tuple(shape), dtype) for n, (dtype, shape) in record["tensors"].items()},
        sequences=(a["sequence0"], a["sequence1"]),
        logits=(a["logits0"], a["logits1"]),
        prompt=a["prompt"],
        greedy=a["greedy"],
        **{key: value for key, value in record.items() if key not in not_stored},
    )


def tolerance(golden: Golden) -> float:
    """The largest difference from transformers that is allowed for a case's logits."""
    return DELTA_TOLERANCE if golden.model_type in DELTA_RULES else TOLERANCE


def raw_config(name: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a case with keys changed; `...` takes a key away."""
    config = load_case(name).config | changes
    return {key: value for key, value in config.items() if value is not ...}


def make_weights(golden: Golden) -> dict[str, np.ndarray]:
    """All tensors of the checkpoint in their stored dtypes, by checkpoint name."""
    return {
        name: make_tensor(name, shape, golden.seed, norm_low=golden.norm_low).astype(DTYPES[dtype])
        for name, (shape, dtype) in golden.tensors.items()
    }


def write_checkpoint(golden: Golden, directory: str | Path, *, shards: int | None = None) -> Path:
    """Writes config.json and the safetensors file(s) and returns the directory.

    shards: the number of weight files, `golden.shards` by default; above one, the tensors are
    dealt out round-robin, so that the parts of one layer lie in different files, and an index names
    the file of each.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(golden.config, indent=2))
    weights = make_weights(golden)
    count = golden.shards if shards is None else shards
    if count == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    weight_map = {}
    for i in range(count):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        part = {name: weights[name] for name in list(weights)[i::count]}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(w.nbytes for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return directory
