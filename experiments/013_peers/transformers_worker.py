"""transformers in a process of its own, in the peers' environment; prints one JSON line."""

import json
import os
import sys
import time
from typing import Any

import torch
import transformers
from prompts import measured, prompts, rate


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Rates of prefill and decode, and the first sequence's tokens."""
    plan = given["plan"]
    torch.set_num_threads(os.cpu_count() or 1)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        given["model"],
        dtype=getattr(torch, given["dtype"]),
        attn_implementation=given["attention"],
    ).eval()

    def prefill(ids: list[int]) -> float:
        long = torch.tensor([ids])
        begin = time.perf_counter()
        model(long, use_cache=True, logits_to_keep=1).logits.argmax(-1).tolist()
        return time.perf_counter() - begin

    with torch.inference_mode():
        found = measured(plan, prefill, lambda batch: _decode(model, plan, batch))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return found | {"versions": versions}


def _decode(model: Any, plan: dict[str, Any], batch: int) -> tuple[float, list[int]]:
    cache = transformers.DynamicCache()
    tokens = torch.tensor(prompts(plan, batch, plan["prompt"]))
    seconds, first = [], []
    for _ in range(plan["steps"] + 4):
        begin = time.perf_counter()
        logits = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        tokens = logits[:, -1:].argmax(-1)
        first.append(tokens[0, 0].item())
        seconds.append(time.perf_counter() - begin)
    return rate(batch, seconds[3:]), first


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
