"""Engines that draft in several ways, timed in turns on the same work."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from config import Plan
from distil import DIRECTORY
from workloads import Workload

import ferrum_jax as fj


@dataclass(frozen=True)
class Variant:
    """One way to draft; without a speculation, the plain engine."""

    name: str
    speculation: fj.Speculation | None


def variants(plan: Plan) -> list[Variant]:
    longest = plan.lengths[-1]
    found = [Variant("none", None)]
    for source, draft in (("n-gram", "ngram"), ("draft model", str(DIRECTORY))):
        for length in plan.lengths:
            fixed = fj.Speculation(draft, num_tokens=length, min_chance=0.0)
            found.append(Variant(f"{source}, {length}", fixed))
        found.append(Variant(f"{source}, up to {longest}", fj.Speculation(draft, longest)))
    return found


def engine(variant: Variant, batch: int, compile_cache: str) -> fj.LLM:
    return fj.LLM.load(
        "demo",
        engine=fj.EngineConfig(
            max_num_seqs=batch,
            max_num_batched_tokens=256,
            max_model_len=256,
            speculative=variant.speculation,
            compile_cache_dir=compile_cache,
        ),
    )


def timed(workload: Workload, batch: int, plan: Plan, compile_cache: str) -> Iterator[dict]:
    """Per variant its acceptance, its tokens per step of a sequence, and its speed in shares of the
    plain engine's: medians over turns, each of which runs all variants once."""
    llms = {v.name: engine(v, batch, compile_cache) for v in variants(plan)}
    tokens: dict[str, list[list[int]]] = {}
    for name, llm in llms.items():  # Compiles.
        outputs = llm.generate(workload.prompts, workload.params)
        tokens[name] = [output.outputs[0].token_ids for output in outputs]
    wall, cpu = {name: [] for name in llms}, {name: [] for name in llms}
    for _ in range(plan.turns):
        for name, llm in llms.items():
            llm.metrics.reset()
            start, start_cpu = time.perf_counter(), time.process_time()
            llm.generate(workload.prompts, workload.params)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    for name, llm in llms.items():
        metrics = llm.metrics.snapshot()
        rows = metrics.batch_occupancy * metrics.num_steps * batch
        yield {
            "workload": workload.name,
            "batch": batch,
            "variant": name,
            "same_tokens": tokens[name] == tokens["none"],
            "drafted": metrics.drafted_tokens,
            "accepted": metrics.accepted_tokens,
            "tokens_per_row": metrics.generated_tokens / rows,
            "speed": _ratios(wall["none"], wall[name]),
            "speed_per_cpu_second": _ratios(cpu["none"], cpu[name]),
        }
        llm.close()


def _ratios(plain: list[float], other: list[float]) -> list[float]:
    """The median over turns of plain / other, and the quartiles."""
    ratios = np.divide(plain, other)
    return np.quantile(ratios, (0.5, 0.25, 0.75)).round(3).tolist()
