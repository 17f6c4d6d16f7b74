"""`engine.metrics`: what an engine has done, as numbers, a table or Prometheus' text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrum_jax.interfaces import ModelExecutor
from ferrum_jax.kv import BlockTableManager
from ferrum_jax.runtime.metrics import MetricsRecorder
from ferrum_jax.runtime.prometheus import to_prometheus
from ferrum_jax.scheduler import ContinuousScheduler
from ferrum_jax.types import EngineMetrics


class EngineReport:
    """What the engine has done since the start or the last `reset`."""

    def __init__(
        self,
        recorder: MetricsRecorder,
        scheduler: ContinuousScheduler,
        blocks: BlockTableManager,
        executor: ModelExecutor,
    ):
        self._recorder, self._scheduler = recorder, scheduler
        self._blocks, self._executor = blocks, executor

    def snapshot(self) -> EngineMetrics:
        """All counts and percentiles as they stand; `print` shows them as a table."""
        return self._recorder.snapshot(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            free_pages=self._blocks.num_free,
            **self._cumulative(),
        )

    def prometheus(self) -> str:
        """The same in Prometheus' text format, for whoever serves it."""
        return to_prometheus(self.snapshot())

    def reset(self) -> None:
        """All counts to zero, to measure one workload."""
        self._recorder.reset(**self._cumulative())

    def _cumulative(self) -> Mapping[str, Any]:
        return {
            "cache_queried": self._blocks.num_queried,
            "cache_hits": self._blocks.num_hits,
            "compilations": self._executor.compilations,
        }
