"""Batches timed in turns: every edited one between two unedited ones."""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from config import Plan
from edits import KINDS, batch_of
from tqdm import tqdm

import ferrum_jax as fj

Run = Callable[[list[fj.Taps] | None], object]


def edit_costs(llm: fj.LLM, plan: Plan) -> Iterator[dict]:
    """A record for every job and kind of edit."""
    for job, run, tokens in _jobs(llm, plan):
        compiled = {}
        for kind in KINDS:
            before = len(llm.compilations)
            run(batch_of(kind, llm.config, plan, plan.turns))
            compiled[kind] = len(llm.compilations) - before
        total = len(llm.compilations)
        turns = [
            _turn([partial(run, batch) for batch in batches], partial(run, None))
            for batches in tqdm(_batches(llm, plan), desc=job, unit="turn", total=plan.turns)
        ]
        recompiled = len(llm.compilations) - total
        for kind, column in zip(KINDS, zip(*turns, strict=True), strict=True):
            yield {
                "job": job,
                "kind": kind,
                **_summary(column, tokens),
                "programs": compiled[kind],
                "programs_for_other_values": recompiled,
            }


def capture_costs(llm: fj.LLM, plan: Plan) -> Iterator[dict]:
    """A record for every capture, beside the same requests without one."""
    texts = _random_texts(llm, plan, plan.scored)
    params = fj.SamplingParams(max_tokens=1, temperature=0.0)
    layers = {"all layers": None, "one layer": plan.captured_layer}

    def plain() -> object:
        return llm.generate(texts, params)

    def capture(layer: int | None) -> object:
        return sum(1 for _ in llm.iter_capture(texts, "resid_post", layer, params=params))

    runs = [plain, *(partial(capture, layer) for layer in layers.values())]
    for run in runs:
        run()
    turns = [_turn(runs, plain) for _ in tqdm(range(plan.turns), desc="capture", unit="turn")]
    tokens = plan.requests * plan.scored
    for kind, column in zip(("none", *layers), zip(*turns, strict=True), strict=True):
        yield {"job": "capture resid_post", "kind": kind, **_summary(column, tokens)}


def _jobs(llm: fj.LLM, plan: Plan) -> Iterator[tuple[str, Run, int]]:
    """Name, what runs a batch with its edits, and the tokens that are counted."""
    prompts = _random_texts(llm, plan, plan.prompt)
    params = fj.SamplingParams(max_tokens=plan.generated, temperature=0.0, ignore_eos=True)
    yield (
        "decode",
        lambda taps: llm.generate(prompts, params, taps=taps),
        (plan.requests * plan.generated),
    )
    texts = _random_texts(llm, plan, plan.scored)
    yield "score", lambda taps: llm.score(texts, taps=taps), plan.requests * plan.scored


def _random_texts(llm: fj.LLM, plan: Plan, length: int) -> list[list[int]]:
    rng = np.random.default_rng(plan.seed)
    return rng.integers(3, llm.config.vocab_size, (plan.requests, length)).tolist()


def _batches(llm: fj.LLM, plan: Plan) -> Iterator[list[list[fj.Taps] | None]]:
    """The edits of every turn: other ones each time."""
    for turn in range(plan.turns):
        yield [batch_of(kind, llm.config, plan, turn) for kind in KINDS]


def _turn(runs: list[Callable[[], object]], plain: Callable[[], object]) -> list[np.ndarray]:
    """Per run `[2, 2]`: its wall and CPU seconds, and those of the unedited run.

    The latter are the means of the run before and the one after.
    """
    references, seconds = [_seconds(plain)], []
    for run in runs:
        seconds.append(_seconds(run))
        references.append(_seconds(plain))
    pairs = itertools.pairwise(references)
    around = [np.mean(pair, axis=0) for pair in pairs]
    return [np.stack(both) for both in zip(seconds, around, strict=True)]


def _seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of all threads of this process."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def _summary(column: tuple[np.ndarray, ...], tokens: int) -> dict:
    """Rates, and the ratios of throughput to the unedited runs: median, quartiles, all."""
    (wall, cpu), (plain_wall, plain_cpu) = np.stack(column).transpose(1, 2, 0)
    ratios = plain_wall / wall
    return {
        "tokens_per_second": tokens / float(np.median(wall)),
        "ratio": float(np.median(ratios)),
        "quartiles": np.percentile(ratios, (25, 75)).tolist(),
        "ratios": ratios.tolist(),
        "cpu_ratio": float(np.median(plain_cpu / cpu)),
        "cpu_quartiles": np.percentile(plain_cpu / cpu, (25, 75)).tolist(),
    }
