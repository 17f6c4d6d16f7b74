"""The measurements of `ferrum-jax bench`, each taken in turns with the machine's limits.

**Decode** is timed in the steady state: all requests past their prompts, the engine running ahead
as it does for users. A slice of steps follows each measurement of the limits; the first steps of a
slice, which find the device idle, are dropped. A step's time is the median of a slice, and its
fraction the limit's time over it within the same round; the medians over the rounds are reported.

**Host time per step** is all that `Engine.step` does besides waiting: schedule, batch, dispatch,
collect. A probe around `Executor.execute` lets each step finish before `execute` returns and
notes how long it waited after the call had been dispatched; the step's wall time less that wait is
the host's. It is taken step by step, never as the difference of two medians. Where a backend runs
the call inside the dispatch it is an upper bound. While running ahead most of it is hidden.

**Cold** times start from an engine that does not exist: cache, compilation, first step. jax's
persistent compilation cache, if it is configured, makes them shorter; the record says whether.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ferrum_jax.cli.bench_costs import decode_cost, prefill_cost
from ferrum_jax.cli.bench_limits import LimitMeter
from ferrum_jax.cli.bench_measured import Measured, summarise
from ferrum_jax.cli.bench_probe import Probe, probed
from ferrum_jax.runtime.engine import Engine
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import (
    DataType,
    EngineConfig,
    ResourceExhausted,
    SamplingParams,
)

DROPPED = 2
"""Steps at the start of a slice: one finds nothing in flight, one finds the device idle."""
HOST_STEPS = 12
"""Steps timed for the host's share."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    prompt: int
    """tokens of a prompt"""
    new: int
    """decode steps that are timed"""
    rounds: int

    @property
    def slice_steps(self) -> int:
        return max(1, self.new // self.rounds)

    @property
    def decode_steps(self) -> int:
        """All steady steps of a batch, those dropped and those for the host's share counted."""
        return self.rounds * (DROPPED + self.slice_steps) + DROPPED + HOST_STEPS

    def generated(self, batch: int, engine: EngineConfig) -> int:
        """Tokens that each request must be allowed: the first generates while others prefill."""
        per_step = max(1, engine.max_num_batched_tokens - batch)
        return self.decode_steps + math.ceil(batch * self.prompt / per_step) + 4


class Workload:
    """Random prompts for one model, and the ways to time them."""

    def __init__(self, llm: LLM, sizes: Sizes):
        self.llm, self.sizes = llm, sizes
        self._itemsize = DataType.parse(str(llm.params.embed.dtype)).itemsize
        self._rounded = llm.engine_config.quantization
        self._rng = np.random.default_rng(0)

    @property
    def engine(self) -> Engine:
        return self.llm.engine

    def add(self, count: int, max_tokens: int) -> list[int]:
        """Queue requests that run to `max_tokens`."""
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        shape = (count, self.sizes.prompt)
        prompts = self._rng.integers(0, self.llm.config.vocab_size, shape).tolist()
        return [self.engine.add(prompt, params) for prompt in prompts]

    def first_token_seconds(self) -> float:
        """From the arrival of one request to its first token."""
        (request,) = self.add(1, 4)
        while self.engine.has_work:
            self.engine.step()
        seconds = self.engine.take(request).metrics.time_to_first_token
        assert seconds is not None
        return seconds

    def cold_first_token_seconds(self) -> float:
        """The same, from before there is an engine."""
        self.llm.close()
        start = time.perf_counter()
        _ = self.engine
        return time.perf_counter() - start + self.first_token_seconds()

    def time_first_token(self, meter: LimitMeter) -> Measured:
        """Time to first token, warm."""
        cost = prefill_cost(self.llm.config, 1, self.sizes.prompt, self._itemsize, self._rounded)
        pairs = [(meter.measure(), self.first_token_seconds()) for _ in range(self.sizes.rounds)]
        return summarise("first token, warm", 1, self.sizes.prompt, cost, pairs)

    def time_prefill(self, meter: LimitMeter) -> Measured:
        """As many prompts as fill one step."""
        budget = self.llm.engine_config
        count = min(budget.max_num_batched_tokens // self.sizes.prompt, budget.max_num_seqs) or 1
        cost = prefill_cost(
            self.llm.config, count, self.sizes.prompt, self._itemsize, self._rounded
        )
        self._prefill(count)
        pairs = [(meter.measure(), self._prefill(count)) for _ in range(self.sizes.rounds)]
        tokens = count * self.sizes.prompt
        return summarise("prefill", count, tokens, cost, pairs)

    def _prefill(self, count: int) -> float:
        requests = self.add(count, 1)
        start = time.perf_counter()
        while self.engine.has_work:
            self.engine.step()
        seconds = time.perf_counter() - start
        for request in requests:
            self.engine.take(request)
        return seconds

    def time_decode(self, meter: LimitMeter, batch: int) -> Measured:
        """Decode steps of `batch` requests.

        Raises:
            ResourceExhausted: they do not all fit the engine together.
        """
        with self._decoding(batch) as probe:
            pairs = [(meter.measure(), self._slice_seconds()) for _ in range(self.sizes.rounds)]
            host, dispatch = self._host_seconds(probe)
        context = self.sizes.prompt + self.sizes.decode_steps / 2
        kv_dtype = self.engine.kv.dtype
        cost = decode_cost(self.llm.config, batch, context, self._itemsize, kv_dtype, self._rounded)
        return summarise("decode", batch, batch, cost, pairs, host, dispatch)

    def run_once(self, batch: int) -> None:
        """Compile what `batch` requests need, and touch the memory."""
        with self._decoding(batch):
            self.engine.step()

    @contextmanager
    def _decoding(self, batch: int) -> Iterator[Probe]:
        """Requests that are all past their prompts, and that must be so still at the end."""
        requests = self.add(batch, self.sizes.generated(batch, self.llm.engine_config))
        with probed(self.engine) as probe:
            while not probe.decodes(batch):
                self.engine.step()
                self._check(self.engine.has_work, batch)
            yield probe
            self._check(probe.decodes(batch), batch)
        self._abort(requests)

    def _check(self, held: bool, batch: int) -> None:
        if not held:
            raise ResourceExhausted(
                f"{batch} requests of {self.sizes.prompt} tokens do not decode together with "
                f"{self.llm.engine_config}; raise max_num_seqs, num_pages or max_model_len, or "
                "lower --batch"
            )

    def _slice_seconds(self) -> float:
        """The median decode step while the engine runs ahead."""
        walls = [_timed_step(self.engine) for _ in range(DROPPED + self.sizes.slice_steps)]
        return statistics.median(walls[DROPPED:])

    def _abort(self, requests: list[int]) -> None:
        for request in requests:
            self.engine.abort(request)
        while self.engine.has_work:
            self.engine.step()
        for request in requests:
            self.engine.take(request)

    def _host_seconds(self, probe: Probe) -> tuple[float, float]:
        """Medians of a step's host time and of its dispatch."""
        probe.waits = True
        hosts, dispatches = [], []
        for _ in range(HOST_STEPS + DROPPED):
            wall = _timed_step(self.engine)
            hosts.append(wall - probe.waited)
            dispatches.append(probe.dispatched)
        return statistics.median(hosts[DROPPED:]), statistics.median(dispatches[DROPPED:])


def _timed_step(engine: Engine) -> float:
    start = time.perf_counter()
    engine.step()
    return time.perf_counter() - start
