"""The same decode step by plain transformers, in a process of its own.

`python peer.py '{"sizes": {...}, "batch": 16, ...}'` prints one JSON line.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from config import Plan, Sizes


def transformers_row(sizes: Sizes, batch: int, plan: Plan, timeout: float) -> dict[str, Any]:
    """Seconds of a step, or why there are none."""
    given = {
        "sizes": asdict(sizes),
        "batch": batch,
        "context": plan.context,
        "steps": plan.steps,
        "repeats": plan.repeats,
        "device": "cpu" if plan.interpret else "cuda",
    }
    command = [sys.executable, str(Path(__file__)), json.dumps(given)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {timeout:.0f} s"}
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"error": ended.stderr[-300:]}


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Decode one token a sequence, again and again, behind random keys and values."""
    import torch
    import transformers

    device = given["device"]
    if device == "cuda" and not torch.cuda.is_available():
        return {"error": "torch finds no GPU"}
    sizes, batch = given["sizes"], given["batch"]
    family = "Qwen3" if sizes["qk_norm"] else "Llama"
    config = getattr(transformers, f"{family}Config")(
        hidden_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        intermediate_size=sizes["ffn"],
        vocab_size=sizes["vocab"],
        tie_word_embeddings=sizes["tied"],
        max_position_embeddings=131_072,
        attn_implementation="sdpa",
    )
    options = {"device": device, "dtype": torch.bfloat16}
    with torch.device(device), torch.no_grad():
        torch.set_default_dtype(torch.bfloat16)
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        cache = transformers.DynamicCache()
        shape = (batch, sizes["kv_heads"], given["context"] - 1, sizes["head_dim"])
        for layer in range(sizes["layers"]):
            cache.update(torch.randn(shape, **options), torch.randn(shape, **options), layer)
        tokens, position = torch.zeros((batch, 1), dtype=torch.long), given["context"] - 1
        taken = []
        for _ in range(given["repeats"] + 1):
            _wait(torch, device)
            begin = time.perf_counter()
            for _ in range(given["steps"]):
                places = torch.full((batch, 1), position, dtype=torch.long)
                output = model(tokens, past_key_values=cache, position_ids=places)
                tokens, position = output.logits[:, -1:].argmax(-1), position + 1
            _wait(torch, device)
            taken.append((time.perf_counter() - begin) / given["steps"])
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"seconds": statistics.median(taken[1:]), "versions": versions}


def _wait(torch: Any, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
