"""llama.cpp in a process of its own, in the peers' environment; prints one JSON line."""

import json
import os
import sys
import time
from typing import Any

import llama_cpp
import numpy as np
from prompts import measured, prompts, rate


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Rates of prefill and decode, and the first sequence's tokens."""
    plan = given["plan"]
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    # Its AMX tiles crash in a virtual machine that does not let them through.
    options.use_extra_bufts = given.get("rearranged", True)
    model = llama_cpp.llama_model_load_from_file(given["model"].encode(), options)
    assert model, given["model"]

    def prefill(ids: list[int]) -> float:
        context = _context(model, plan, 1)
        begin = time.perf_counter()
        _next_tokens(context, plan, [(0, 0, ids)])
        seconds = time.perf_counter() - begin
        llama_cpp.llama_free(context)
        return seconds

    found = measured(plan, prefill, lambda batch: _decode(model, plan, batch))
    return found | {"versions": {"llama-cpp-python": llama_cpp.__version__}}


def _context(model: Any, plan: dict[str, Any], sequences: int) -> Any:
    options = llama_cpp.llama_context_default_params()
    length = max(plan["prefill"], plan["prompt"] + plan["steps"]) + 8
    options.n_ctx = sequences * -(-length // 256) * 256
    options.n_batch = options.n_ubatch = max(512, plan["prefill"])
    options.n_seq_max = sequences
    options.n_threads = options.n_threads_batch = os.cpu_count() or 1
    context = llama_cpp.llama_init_from_model(model, options)
    assert context
    return context


def _next_tokens(
    context: Any, plan: dict[str, Any], runs: list[tuple[int, int, list[int]]]
) -> list[int]:
    """One call for runs of (sequence, position, tokens); the greedy token behind each of them."""
    batch = llama_cpp.llama_batch_init(sum(len(ids) for _, _, ids in runs), 0, 1)
    index, last = 0, []
    for sequence, position, ids in runs:
        for offset, token in enumerate(ids):
            batch.token[index] = token
            batch.pos[index] = position + offset
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = offset == len(ids) - 1
            index += 1
        last.append(index - 1)
    batch.n_tokens = index
    assert llama_cpp.llama_decode(context, batch) == 0
    found = []
    for place in last:
        logits = llama_cpp.llama_get_logits_ith(context, place)
        found.append(int(np.ctypeslib.as_array(logits, (plan["vocab"],)).argmax()))
    llama_cpp.llama_batch_free(batch)
    return found


def _decode(model: Any, plan: dict[str, Any], count: int) -> tuple[float, list[int]]:
    context = _context(model, plan, count)
    # A prompt at a time: together they may exceed what one call takes.
    last = [
        _next_tokens(context, plan, [(sequence, 0, ids)])[0]
        for sequence, ids in enumerate(prompts(plan, count, plan["prompt"]))
    ]
    seconds, first = [], [last[0]]
    for position in range(plan["prompt"], plan["prompt"] + plan["steps"] + 3):
        begin = time.perf_counter()
        last = _next_tokens(context, plan, [(s, position, [id]) for s, id in enumerate(last)])
        seconds.append(time.perf_counter() - begin)
        first.append(last[0])
    llama_cpp.llama_free(context)
    return rate(count, seconds[3:]), first


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
