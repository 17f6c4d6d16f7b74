"""What the logits are in float64: `double/<case>.npz`, for `test_double.py`.

    python tests/parity/make_double_reference.py [case ...]

Runs where `make_reference.py` runs, after it. transformers computes each case from the weights and
the rope frequencies of the golden files, every operation in float64, norms, softmax, rope and
router too; an operation that returns a smaller float stops the program. Stored is by how much the
logits differ from the golden ones, which is transformers' own error in float32, times SCALE.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from cases import CASES, Case
from make_reference import (
    GOLDEN,
    PromoteToFloat64,
    chosen_cases,
    forward,
    load_seeded,
    save_untrained,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DOUBLE = Path(__file__).parent / "double"
NAMES = ("llama", "gemma2", "qwen3_moe", "deepseek_v3", "mamba2", "qwen3_next")
SCALE = 2.0**20
"""Differences of 1e-6 then lie in the middle of what float16 can hold."""


class OnlyFloat64(TorchDispatchMode):
    """Raises at an operation on floats that returns anything but float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                assert value.dtype is torch.float64, f"{func} returned {value.dtype}"
        return out


def make_case(case: Case) -> dict[str, Any]:
    """Writes double/<case>.npz; returns what the program prints of it."""
    record = json.loads((GOLDEN / f"{case.name}.json").read_text())
    with np.load(GOLDEN / f"{case.name}.npz") as arrays:
        golden = dict(arrays)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        checkpoint = save_untrained(case, directory)
        model = load_seeded(case, checkpoint, directory, record["seed"])
    double = copy.deepcopy(model).double()
    differences = []
    for i in range(2):
        with OnlyFloat64(), PromoteToFloat64():
            exact = forward(double, golden[f"sequence{i}"])
        differences.append(exact.numpy() - golden[f"logits{i}"])
    path = DOUBLE / f"{case.name}.npz"
    stored = {f"difference{i}": (d * SCALE).astype(np.float16) for i, d in enumerate(differences)}
    np.savez_compressed(
        path, **stored, transformers=np.asarray(transformers.__version__), scale=np.asarray(SCALE)
    )
    worst = max(float(np.abs(d).max()) for d in differences)
    return {"error": worst, "recorded": record["exact_error"], "bytes": path.stat().st_size}


def main(arguments: list[str]) -> None:
    """Makes the named cases, or NAMES."""
    names = chosen_cases(arguments, __doc__, NAMES)
    DOUBLE.mkdir(exist_ok=True)
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: {make_case(CASES[name])}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
