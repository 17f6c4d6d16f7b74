"""What bfloat16 costs in transformers: `bfloat16.json`, for `test_bfloat16.py`.

    python tests/parity/make_bfloat16_reference.py [case ...]

Runs where `make_reference.py` runs, after it. One case of each model type without a router (a flip
there moves a logit by more than all rounding together) with random weights, and the demo model
with text of the standard library. The weights are rounded to bfloat16 first and are the same
numbers in both runs, so that what is measured is the rounding of activations alone: the mean over
positions of KL(float32 || bfloat16), in nats.
"""

from __future__ import annotations

import argparse
import heapq
import json
import queue
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from cases import CASES, Case
from make_hidden_reference import RICH
from make_reference import Checkpoint, save_untrained
from random_weights import make_tensor, make_tokens
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
OUT = HERE / "bfloat16.json"
DEMO = HERE.parents[1] / "ferrum_jax" / "demo_model"
SEEDS = (0, 1, 2)
LENGTH = 120
"""Of each seed's sequence, where the case's context is not shorter."""
DEMO_LENGTH = 256
DEMO_MODULES = (heapq, queue, textwrap)


def mean_kl(reference: torch.Tensor, other: torch.Tensor) -> float:
    """The mean over positions of KL(reference || other) from logits, in float64."""
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@torch.no_grad()
def kl_of_rounding(directory: Path, ids: np.ndarray, attention: str) -> float:
    """KL(float32 || bfloat16) of a checkpoint's model on one sequence."""
    logits = []
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation=attention
        ).eval()
        logits.append(model(torch.from_numpy(ids).long()[None], use_cache=False).logits[0])
    return mean_kl(*logits)


def has_router(tensors: dict[str, Any]) -> bool:
    """Whether a checkpoint has experts, by its tensors' names."""
    return any("expert" in name or "moe" in name for name in tensors)


def case_kls(case: Case) -> dict[str, Any] | None:
    """The length of the sequences and the KL of each seed; None for a model with experts."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        checkpoint = save_untrained(replace(case, dtype="bfloat16"), directory)
        if has_router(checkpoint.tensors):
            return None
        config = AutoConfig.from_pretrained(directory)
        length = min(LENGTH, getattr(config, "max_position_embeddings", LENGTH))
        kls = [_seeded(case, checkpoint, directory, length, seed) for seed in SEEDS]
        return {"length": length, "kl": kls}


def _seeded(case: Case, checkpoint: Checkpoint, directory: Path, length: int, seed: int) -> float:
    tensors = {
        name: torch.from_numpy(make_tensor(name, shape, seed, norm_low=case.norm_low)).bfloat16()
        for name, (shape, _) in checkpoint.tensors.items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    ids = make_tokens("bfloat16", length, case.config["vocab_size"], seed)
    return kl_of_rounding(directory, ids, case.attention)


def demo() -> dict[str, Any]:
    """Token ids of some modules, and the KL on each."""
    spm = SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
    texts = [Path(module.__file__).read_text() for module in DEMO_MODULES]
    ids = [np.asarray([spm.bos_id(), *spm.encode(text)][:DEMO_LENGTH]) for text in texts]
    return {
        "tokens": [x.tolist() for x in ids],
        "kl": [kl_of_rounding(DEMO, x, "eager") for x in ids],
    }


def main() -> None:
    """Measure the named cases anew, or all of them and the demo model, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help="names from cases.py; all if none is given")
    chosen = parser.parse_args().case
    old = json.loads(OUT.read_text()) if chosen else {"cases": {}}
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cases = old["cases"]
    for name, case in CASES.items():
        if name != RICH.get(case.model_type, case.model_type) or (chosen and name not in chosen):
            continue
        found = case_kls(case)
        print(name, found, flush=True)
        if found is not None:
            cases[name] = found
    record = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "cases": dict(sorted(cases.items())),
        "demo": old["demo"] if chosen else demo(),
    }
    lines = [
        f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in record["cases"].items()
    ]
    entries = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in record.items() if k != "cases"]
    entries.append(' "cases": {\n' + ",\n".join(lines) + "\n }")
    OUT.write_text("{\n" + ",\n".join(entries) + "\n}\n")
    print("demo", record["demo"]["kl"])


if __name__ == "__main__":
    main()
