"""Which variants run together: on one LLM, and there as one batch of one compiled program."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ferrum_jax.research.sweep.axes import Key
from ferrum_jax.research.sweep.metrics import ScoredMetric, UserMetric, values_of
from ferrum_jax.research.sweep.statistics import DocumentValues
from ferrum_jax.research.sweep.variant import Setting
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import FerrumError

Metric = ScoredMetric | UserMetric


@dataclass(frozen=True, eq=False)
class Job:
    """A variant that is yet to be measured."""

    key: Key
    setting: Setting | FerrumError
    """What to run, or why it cannot be."""
    taps: Any
    description: str
    fingerprint: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    result: DocumentValues | FerrumError
    seconds: float


def measure(jobs: Sequence[Job], metric: Metric, most_requests: int) -> Iterator[list[Outcome]]:
    """Measure jobs, a batch at a time; jobs of one setting share an LLM, the first job's first.

    A model that is made for a setting is closed when its jobs are done, or dropped. A `FerrumError`
    is the outcome of the jobs that it concerns; anything else is raised.
    """
    by_setting: dict[Setting, list[Job]] = {}
    for job in jobs:
        if isinstance(job.setting, Setting):
            by_setting.setdefault(job.setting, []).append(job)
    for setting, group in by_setting.items():
        try:
            llm = setting.source if setting.is_source else setting.make()
        except FerrumError as error:
            yield [Outcome(job, error, 0.0) for job in group]
            continue
        try:
            for batch in _batches(llm, group, metric, most_requests):
                yield _run(llm, batch, metric)
        finally:
            if llm is not setting.source:
                llm.close()
    for job in jobs:
        if isinstance(job.setting, FerrumError):
            yield [Outcome(job, job.setting, 0.0)]


def _batches(llm: LLM, jobs: list[Job], metric: Metric, most_requests: int) -> Iterator[list[Job]]:
    """Jobs whose edits have one structure, as many as their requests may be at once."""
    size = 1
    if isinstance(metric, ScoredMetric):
        waiting = llm.engine_config.max_waiting
        most = most_requests if waiting is None else min(most_requests, waiting)
        size = max(1, most // len(metric.texts))
    alike: dict[Any, list[Job]] = {}
    for job in jobs:
        alike.setdefault(_structure(job.taps), []).append(job)
    for group in alike.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _structure(taps: Any) -> Any:
    """All of an edit but its values: what decides which program runs."""
    leaves, tree = jax.tree_util.tree_flatten(taps)
    return tree, tuple((getattr(x, "shape", None), str(getattr(x, "dtype", ""))) for x in leaves)


def _run(llm: LLM, batch: list[Job], metric: Metric) -> list[Outcome]:
    """The outcomes of a batch; if it fails as one, those of its halves."""
    start = time.monotonic()
    try:
        if isinstance(metric, ScoredMetric):
            results = _score(llm, batch, metric)
        else:
            results = [values_of(metric, llm, job.taps) for job in batch]
    except FerrumError as error:
        if len(batch) > 1:
            half = len(batch) // 2
            return [*_run(llm, batch[:half], metric), *_run(llm, batch[half:], metric)]
        results = [error]
    seconds = (time.monotonic() - start) / len(batch)
    return [Outcome(job, x, seconds) for job, x in zip(batch, results, strict=True)]


def _score(llm: LLM, batch: list[Job], metric: ScoredMetric) -> list[DocumentValues]:
    """One scoring run: every document of every job, each with its job's edits."""
    prompts = metric.prompts(llm)
    taps = [job.taps for job in batch for _ in prompts]
    edited = any(each is not None for each in taps)
    scores = llm.score(prompts * len(batch), taps=taps if edited else None)
    count = len(prompts)
    return [metric.read(llm, scores[i * count : (i + 1) * count]) for i in range(len(batch))]
