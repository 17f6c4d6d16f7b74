"""Counts what an engine does, step by step and request by request, in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np

from ferrum_jax.types import EngineMetrics, FinishReason, Metrics, Percentiles, Schedule

GAPS_PER_REQUEST = 16
"""Gaps between tokens that are kept for each request of the window, for the percentiles."""


class MetricsRecorder:
    """Takes in steps and ended requests; `snapshot` says what they add up to.

    Args:
        max_num_seqs: rows that a step can have.
        max_num_batched_tokens: tokens that a step can have.
        num_pages: KV pages that sequences can own.
        clock: seconds, monotonic; the one that steps and requests are timed by.
        window: requests that the percentiles are taken over, the newest; those of the gaps between
            tokens over the newest `16 * window` gaps.
    """

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        num_pages: int,
        clock: Callable[[], float] = time.monotonic,
        window: int = 10_000,
    ):
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._num_pages = num_pages
        self._clock = clock
        self._window = window
        self.reset()

    def reset(
        self,
        *,
        cache_queried: int = 0,
        cache_hits: int = 0,
        compilations: Mapping[Any, float] | None = None,
    ) -> None:
        """All counts to zero, to measure one workload.

        The arguments are what `snapshot` would be given now: later snapshots subtract them.
        """
        self._since = self._clock()
        self._counts = _Counts()
        self._times = _Times(self._window)
        self._cache_before = (cache_queried, cache_hits)
        self._compiled_before = frozenset(compilations or ())

    def note_step(self, schedule: Schedule, *, started: float, free_pages: int) -> None:
        """A step was formed and dispatched.

        Args:
            started: when, in seconds on the recorder's clock.
            free_pages: KV pages that no sequence owns, after the step was given its own.
        """
        counts, columns = self._counts, schedule.columns
        if schedule.num_rows:
            counts.steps += 1
            counts.last_step = started
        counts.rows += schedule.num_rows
        counts.tokens += schedule.num_tokens
        counts.sampled += sum(compress(columns.steps, columns.samples))
        rows = zip(columns.sequences, columns.starts, columns.lengths, strict=True)
        counts.prompt_tokens += sum(
            min(length, sequence.prompt_len - start)
            for sequence, start, length in rows
            if start < sequence.prompt_len
        )
        counts.preemptions += len(schedule.preempted)
        counts.swaps += len(schedule.swapped_out)
        counts.copied_pages += len(schedule.copies)
        counts.peak_pages = max(counts.peak_pages, self._num_pages - free_pages)

    def note_draft(self, drafted: int, accepted: int) -> None:
        """A draft was verified; so many of its tokens were sampled too."""
        counts = self._counts
        counts.drafted += drafted
        counts.accepted += accepted
        counts.sampled += accepted

    def note_step_end(self, seconds: float) -> None:
        """The engine spent so much time on a step."""
        self._counts.busy_seconds += seconds

    def note_finished(self, metrics: Metrics, reasons: Iterable[FinishReason]) -> None:
        """A request ended; `reasons` are those of its completions, in order."""
        counts, times = self._counts, self._times
        for reason in reasons:
            counts.requests[reason.value] += 1
            break
        counts.cached_tokens += metrics.cached_tokens
        times.queue_time.add(metrics.queue_time)
        times.prefill_time.add(metrics.prefill_time)
        times.decode_time.add(metrics.decode_time)
        times.time_to_first_token.add(metrics.time_to_first_token)
        for gap in metrics.inter_token_latencies:
            times.inter_token_latency.add(gap)

    def snapshot(
        self,
        *,
        running: int,
        waiting: int,
        free_pages: int,
        cache_queried: int,
        cache_hits: int,
        compilations: Mapping[Any, float],
    ) -> EngineMetrics:
        """Everything so far, with the state that only the engine knows.

        Args:
            running: sequences that hold a slot.
            waiting: sequences that wait for one.
            free_pages: KV pages that no sequence owns.
            cache_queried: prompt tokens that were looked up in the prefix cache, since the start.
            cache_hits: those that were found.
            compilations: seconds of each compilation, since the start.
        """
        counts, times, now = self._counts, self._times, self._clock()
        used = self._num_pages - free_pages
        queried, hits = cache_queried - self._cache_before[0], cache_hits - self._cache_before[1]
        compiled = [s for key, s in compilations.items() if key not in self._compiled_before]
        return EngineMetrics(
            uptime=now - self._since,
            since_last_step=None if counts.last_step is None else now - counts.last_step,
            num_steps=counts.steps,
            busy_seconds=counts.busy_seconds,
            requests=dict(counts.requests),
            running=running,
            waiting=waiting,
            prompt_tokens_computed=counts.prompt_tokens,
            generated_tokens=counts.sampled,
            cached_tokens=counts.cached_tokens,
            drafted_tokens=counts.drafted,
            accepted_tokens=counts.accepted,
            prompt_throughput=_ratio(counts.prompt_tokens, counts.busy_seconds),
            generation_throughput=_ratio(counts.sampled, counts.busy_seconds),
            batch_occupancy=_ratio(counts.rows, counts.steps * self._max_num_seqs),
            token_occupancy=_ratio(counts.tokens, counts.steps * self._max_num_batched_tokens),
            page_use=used / self._num_pages,
            peak_page_use=max(counts.peak_pages, used) / self._num_pages,
            prefix_hit_rate=hits / queried if queried else None,
            num_preemptions=counts.preemptions,
            num_swaps=counts.swaps,
            num_copied_pages=counts.copied_pages,
            compilations=len(compiled),
            compile_seconds=sum(compiled),
            queue_time=times.queue_time.percentiles(),
            prefill_time=times.prefill_time.percentiles(),
            decode_time=times.decode_time.percentiles(),
            time_to_first_token=times.time_to_first_token.percentiles(),
            inter_token_latency=times.inter_token_latency.percentiles(),
        )


@dataclass
class _Counts:
    """What has been counted since the start or the last reset."""

    steps: int = 0
    last_step: float | None = None
    busy_seconds: float = 0.0
    rows: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    sampled: int = 0
    drafted: int = 0
    accepted: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    swaps: int = 0
    copied_pages: int = 0
    peak_pages: int = 0
    requests: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((reason.value for reason in FinishReason), 0)
    )


class _Samples:
    """Seconds of one kind: the newest are kept, all count in the mean."""

    def __init__(self, window: int):
        self.newest: deque[float] = deque(maxlen=window)
        self.count, self.total = 0, 0.0

    def add(self, seconds: float | None) -> None:
        if seconds is not None:
            self.newest.append(seconds)
            self.count += 1
            self.total += seconds

    def percentiles(self) -> Percentiles | None:
        if not self.count:
            return None
        p50, p90, p99 = np.percentile(list(self.newest), (50, 90, 99)).tolist()
        return Percentiles(p50, p90, p99, mean=self.total / self.count, count=self.count)


class _Times:
    """The distributions of `EngineMetrics`."""

    def __init__(self, window: int):
        self.queue_time = _Samples(window)
        self.prefill_time = _Samples(window)
        self.decode_time = _Samples(window)
        self.time_to_first_token = _Samples(window)
        self.inter_token_latency = _Samples(GAPS_PER_REQUEST * window)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
