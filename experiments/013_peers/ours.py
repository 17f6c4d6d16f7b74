"""ferrum_jax in a process of its own: `python ours.py '{"plan": ..., "model": ..., "dtype": ...}'`
prints one JSON line."""

import json
import sys
import time
from typing import Any

from prompts import measured, prompts, rate

import ferrum_jax as fj


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Rates of prefill and decode, and the first sequence's tokens."""
    plan, dtype = given["plan"], given["dtype"]
    rounded = dtype == "int8"
    llm = fj.LLM.load(
        given["model"],
        "float32" if rounded else dtype,
        engine=fj.EngineConfig(
            max_num_seqs=max(plan["batches"]),
            max_num_batched_tokens=max(512, plan["prefill"]),
            max_model_len=plan["prefill"] + plan["prompt"] + plan["steps"] + 8,
            quantization="int8" if rounded else None,
            compile_cache_dir=given["cache"],
        ),
    )
    once = fj.SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)

    def prefill(ids: list[int]) -> float:
        begin = time.perf_counter()
        llm.generate([ids], once)
        return time.perf_counter() - begin

    found = measured(plan, prefill, lambda batch: _decode(llm, plan, batch))
    return found | {"versions": {"ferrum_jax": fj.__version__}}


def _decode(llm: fj.LLM, plan: dict[str, Any], batch: int) -> tuple[float, list[int]]:
    """Steps in which every sequence gains a token, each timed from the end of the one before."""
    params = fj.SamplingParams(max_tokens=plan["steps"] + 4, temperature=0, ignore_eos=True)
    outputs = llm.generate(prompts(plan, batch, plan["prompt"]), params)
    # The last that was admitted: while others wait for their prompts, steps are dearer.
    metrics = max((output.metrics for output in outputs), key=lambda m: m.queue_time)
    return rate(batch, metrics.inter_token_latencies[3:]), outputs[0].outputs[0].token_ids


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
