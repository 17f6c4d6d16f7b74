"""The same work by others, over contiguous keys and values: jax's own, cuDNN, PyTorch.

`python peers.py WORK` prints one JSON line for each peer of PyTorch; a process of its own, so that
the two libraries do not share memory, and so that it can be stopped.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from config import Decode, Plan, Prefill


def jax_peers(work: Decode | Prefill, plan: Plan) -> Iterator[dict[str, Any]]:
    """`jax.nn.dot_product_attention` through XLA and through cuDNN."""
    import jax
    import jax.numpy as jnp
    from clock import seconds_per_call

    shape, queries = work.shape, work.queries if isinstance(work, Prefill) else 1
    keys = jax.random.split(jax.random.key(0), 3)
    dtype = jnp.float32 if plan.interpret else jnp.bfloat16
    q = jax.random.normal(keys[0], (work.batch, queries, shape.heads, shape.head_dim), dtype)
    pool = (work.batch, work.context, shape.kv_heads, shape.head_dim)
    k, v = (jax.random.normal(key, pool, dtype) for key in keys[1:])
    causal = queries > 1
    for name in ("xla",) if plan.interpret else ("cudnn", "xla"):
        if name == "xla" and queries * work.context * work.batch * shape.heads * 4 > 2**33:
            yield {"peer": f"jax {name}", "error": "its weights would take over 8 GiB"}
            continue

        def step(q: Any, k: Any, v: Any, name: str = name) -> Any:
            return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=name)

        try:
            seconds = seconds_per_call(step, q, k, v, plan=plan)
            yield {"peer": f"jax {name}", "seconds": seconds}
        except Exception as error:
            yield {"peer": f"jax {name}", "error": str(error)[:300]}


def torch_peers(work: Decode | Prefill, timeout: float) -> list[dict[str, Any]]:
    """PyTorch's peers by a process of their own; an error where torch is missing or too slow."""
    given = {"kind": type(work).__name__, **asdict(work)}
    command = [sys.executable, str(Path(__file__)), json.dumps(given)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        text = ended.stdout
        if ended.returncode:
            return [*_lines(text), {"peer": "torch", "error": ended.stderr[-300:]}]
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode()
        return [*_lines(text), {"peer": "torch", "error": f"stopped after {timeout:.0f} s"}]
    return _lines(text)


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def run_torch(given: dict[str, Any]) -> None:
    """SDPA and FlexAttention on the GPU, one printed line each."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not torch.cuda.is_available():
        print(json.dumps({"peer": "torch", "error": "torch finds no GPU"}))
        return
    shape, batch, context = given["shape"], given["batch"], given["context"]
    queries = given.get("queries", 1)
    options = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.randn(batch, shape["heads"], queries, shape["head_dim"], **options)
    pool = (batch, shape["kv_heads"], context, shape["head_dim"])
    k, v = torch.randn(pool, **options), torch.randn(pool, **options)
    causal = queries > 1

    def sdpa() -> Any:
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(q, k, v, is_causal=causal, enable_gqa=True)

    mask = None
    if causal:
        mask = create_block_mask(
            lambda b, h, i, j: i >= j, None, None, queries, context, device="cuda"
        )
    compiled = torch.compile(flex_attention)

    def flex() -> Any:
        return compiled(q, k, v, block_mask=mask, enable_gqa=True)

    for name, call in (("torch sdpa", sdpa), ("torch flex", flex)):
        try:
            print(json.dumps({"peer": name, "seconds": _cuda_seconds(torch, call)}), flush=True)
        except Exception as error:
            print(json.dumps({"peer": name, "error": str(error)[:300]}), flush=True)


def _cuda_seconds(torch: Any, call: Any) -> float:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    count = min(1000, max(2, int(0.02 / max(time.perf_counter() - start, 1e-6))))
    taken = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end) / 1000 / count)
    return statistics.median(taken)


if __name__ == "__main__":
    run_torch(json.loads(sys.argv[1]))
