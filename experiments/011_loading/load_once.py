"""Loads a checkpoint in a process of its own, generates, and prints what was measured as JSON.

python experiments/011_loading/load_once.py DIRECTORY DTYPE TOKENS
"""

import json
import sys
import time
from pathlib import Path

import jax

import ferrum_jax as fj

PROMPT = list(range(1, 17))


def memory() -> tuple[int, int]:
    """The process's resident bytes now and at their peak."""
    status = Path("/proc/self/status").read_text()
    return tuple(1024 * int(status.split(key)[1].split()[0]) for key in ("VmRSS:", "VmHWM:"))


def main() -> None:
    """Load, then let the engine write."""
    directory, dtype, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jax.config.update("jax_platforms", "cpu")
    jax.numpy.zeros(1).block_until_ready()
    before = memory()[0]
    start, busy = time.monotonic(), time.process_time()
    config, params = fj.load_model(directory, dtype, progress=True)
    jax.block_until_ready(params)
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - busy
    after, peak = memory()
    held = sum(x.nbytes for x in jax.tree.leaves(params))
    engine = fj.EngineConfig(num_pages=16, max_num_seqs=1, max_num_batched_tokens=32)
    wanted = fj.SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, logprobs=0)
    with fj.LLM(config, params, engine=engine) as llm:
        output = llm.generate([PROMPT], wanted)[0].outputs[0]
    logprobs = [
        entry[token].logprob for token, entry in zip(output.token_ids, output.logprobs, strict=True)
    ]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "parameters": sum(x.size for x in jax.tree.leaves(params)),
                "weights": held,
                "before": before,
                "after": after,
                "peak": peak,
                "tokens": output.token_ids,
                "logprobs": logprobs,
            }
        )
    )


if __name__ == "__main__":
    main()
