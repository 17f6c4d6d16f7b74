"""Plain and invariant engines of one model, timed in turns."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import jax
import numpy as np
from config import Cost
from tqdm import tqdm

import ferrum_jax as fj
from ferrum_jax.cli.bench_shapes import SHAPES
from ferrum_jax.models import init_params
from ferrum_jax.runtime import tiles
from ferrum_jax.types import EngineConfig

DROPPED = 2
"""Steps of a turn that are not timed."""


@dataclass
class Contender:
    """An engine with its program compiled; `tile_rows` is None for the plain one."""

    llm: fj.LLM
    tile_rows: int | None
    requests: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def temporary_bytes(self) -> int:
        """What the largest program needs beside its arguments: differs with the size of tiles."""
        shape = max(self.llm.compilations)
        return self.llm.engine.executor.memory_analysis(shape).temp_size_in_bytes


def measure(plan: Cost) -> Iterator[dict]:
    """A record for every model, workload and engine."""
    for model in plan.models:
        contenders = [_contender(plan, model, rows) for rows in (None, *plan.tile_rows)]
        jobs = [("decode", batch) for batch in plan.batches] + [("prefill", 1)]
        for job, batch in tqdm(jobs, desc=f"cost, {model}", unit="workload"):
            timed = _time_decode if job == "decode" else _time_prefill
            tokens = timed(plan, contenders, batch)
            yield from _records(model, job, batch, tokens, contenders)


def _contender(plan: Cost, model: str, rows: int | None) -> Contender:
    """Build an engine and run everything once.

    The size of tiles is a constant that is read when a step is traced, so what was traced before is
    forgotten; the engine holds its compiled program.
    """
    jax.clear_caches()
    if rows is not None:
        tiles.TILE_ROWS = rows
    largest = max(plan.batches)
    engine = EngineConfig(
        num_pages=1 + largest * 32,
        max_model_len=512 if model == "demo" else 1024,
        max_num_seqs=largest,
        max_num_batched_tokens=512,
        batch_invariant=rows is not None,
    )
    contender = Contender(_load(model, engine), rows)
    for batch in plan.batches:
        _start(plan, contender, batch)
        _stop(contender)
    _prefill(plan, contender)
    return contender


def _load(model: str, engine: EngineConfig) -> fj.LLM:
    if model == "demo":
        return fj.LLM.load("demo", engine=engine)
    config = SHAPES[model].config()
    return fj.LLM(config, init_params(config), engine=engine)


def _time_decode(plan: Cost, contenders: list[Contender], batch: int) -> int:
    """Seconds a step of `batch` sequences; returns the tokens of a step."""
    for contender in contenders:
        _start(plan, contender, batch)
    _in_turns(plan, contenders, lambda contender: _slice_seconds(plan, contender))
    for contender in contenders:
        _stop(contender)
    return batch


def _time_prefill(plan: Cost, contenders: list[Contender], batch: int) -> int:
    """Seconds of one step that takes a whole prompt; returns its tokens."""
    _in_turns(plan, contenders, lambda contender: _prefill(plan, contender))
    return _prefill_tokens(plan, contenders[0])


def _in_turns(plan: Cost, contenders: list[Contender], timed: Callable[[Contender], float]) -> None:
    for contender in contenders:
        contender.seconds = []
    for _ in range(plan.rounds):
        for contender in contenders:
            contender.seconds.append(timed(contender))


def _start(plan: Cost, contender: Contender, batch: int) -> None:
    """Requests that decode, and do not end while they are timed."""
    engine, vocab = contender.llm.engine, contender.llm.config.vocab_size
    params = fj.SamplingParams(max_tokens=400, temperature=0.0, ignore_eos=True)
    prompts = np.random.default_rng(plan.seed).integers(0, vocab, (batch, plan.prompt))
    contender.requests = [engine.add(prompt, params) for prompt in prompts.tolist()]
    # The first has to wait for the prompts of all.
    for _ in range(2 + -(-batch * plan.prompt // (512 - batch))):
        engine.step()
    sequences = engine.scheduler.running
    assert len(sequences) == batch
    assert all(s.num_scheduled >= s.prompt_len for s in sequences)


def _slice_seconds(plan: Cost, contender: Contender) -> float:
    walls = []
    for _ in range(plan.slice_steps):
        start = time.perf_counter()
        contender.llm.engine.step()
        walls.append(time.perf_counter() - start)
    return statistics.median(walls[DROPPED:])


def _stop(contender: Contender) -> None:
    engine = contender.llm.engine
    for request in contender.requests:
        engine.abort(request)
    engine.step()
    for request in contender.requests:
        engine.take(request)


def _prefill_tokens(plan: Cost, contender: Contender) -> int:
    return min(plan.prefill, contender.llm.max_model_len - 1)


def _prefill(plan: Cost, contender: Contender) -> float:
    """Seconds to the first token of one prompt, which goes through in one step."""
    engine, vocab = contender.llm.engine, contender.llm.config.vocab_size
    length = _prefill_tokens(plan, contender)
    prompt = np.random.default_rng(plan.seed).integers(0, vocab, length).tolist()
    request = engine.add(prompt, fj.SamplingParams(max_tokens=1, temperature=0.0))
    start = time.perf_counter()
    while engine.has_work:
        engine.step()
    seconds = time.perf_counter() - start
    engine.take(request)
    return seconds


def _records(
    model: str, job: str, batch: int, tokens: int, contenders: list[Contender]
) -> Iterator[dict]:
    """Rates, and each engine's rate over the plain one's: the median over the turns."""
    plain = contenders[0].seconds
    for contender in contenders:
        seconds = contender.seconds
        ratios = [ours / theirs for ours, theirs in zip(plain, seconds, strict=True)]
        yield {
            "model": model,
            "workload": f"decode, batch {batch}" if job == "decode" else f"prefill, {tokens}",
            "tile_rows": contender.tile_rows,
            "tokens_per_second": tokens / statistics.median(seconds),
            "rate_over_plain": statistics.median(ratios),
            "rate_over_plain_least": min(ratios),
            "rate_over_plain_most": max(ratios),
            "temporary_bytes": contender.temporary_bytes,
            "compile_seconds": sum(contender.llm.compilations.values()),
        }
