"""The real scheduler and block tables, driven through simulated time by a device that is a formula.

As in the engine, a step is formed and dispatched before the tokens of the step before it have been
read: the device works off one step while the host forms the next. The host's own time does not
move the simulated clock; it is measured beside it.
"""

import gc
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from config import MAX_MODEL_LEN, StepCost
from workloads import Job, token_at

from ferrum_jax.kv import BlockTableManager
from ferrum_jax.scheduler import ContinuousScheduler, make_policy, sequence_limit
from ferrum_jax.types import DataType, EngineConfig, KVCacheConfig, Schedule, Sequence


class Log:
    """Rows of numbers by name, in flat arrays: nothing that Python's collector has to visit."""

    def __init__(self, *names: str):
        self._columns = {name: array("d") for name in names}

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._columns[name])

    def add(self, *values: float) -> None:
        """One row, in the order of the names."""
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)


@dataclass(slots=True)
class Track:
    """A request on its way; times in simulated seconds."""

    length: int
    """Tokens at which the model ends the text."""
    first_scheduled: float = -1.0
    first_token: float = -1.0
    newest_token: float = 0.0
    longest_gap: float = 0.0
    """Between two of its tokens."""


class CollectorClock:
    """CPU seconds that Python's garbage collector has taken while the block runs."""

    def __init__(self) -> None:
        self.seconds = self._started = 0.0

    def __enter__(self) -> "CollectorClock":
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, info: dict) -> None:
        if phase == "start":
            self._started = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._started


class Simulation:
    """One engine's worth of scheduling; `run` plays a workload from its first to its last request.

    `requests` has simulated seconds by request that ended, `steps` one row per step: `host` and
    `collector` are CPU seconds of `schedule` and of the garbage collector within it, `device` the
    simulated seconds of the step.
    """

    def __init__(
        self,
        engine: EngineConfig,
        num_pages: int,
        cost: StepCost,
        collector: CollectorClock,
        *,
        host_pages: int = 0,
        by_client: bool = False,
    ):
        """Args:
        collector: a clock that runs.
        by_client: note whom each step serves and who waits, which takes time of its own.
        """
        self.blocks = BlockTableManager(
            KVCacheConfig(num_pages, engine.page_size, DataType.BFLOAT16),
            prefix_caching=engine.prefix_caching,
            eviction=engine.eviction,
            num_host_pages=host_pages,
        )
        self.scheduler = ContinuousScheduler(
            engine, self.blocks, make_policy(engine), MAX_MODEL_LEN
        )
        self.requests = Log(
            *("id", "priority", "queue", "first_token", "total", "longest_gap", "tokens")
        )
        self.clients: list[str] = []
        """Of the requests that ended, in their order."""
        self.steps = Log(
            *("start", "host", "collector", "device", "rows", "tokens"),
            *("running", "waiting", "preempted", "swapped", "used_pages"),
        )
        self.served: list[Counter[str]] = []
        """Tokens by client, of each step."""
        self.backlogged: list[frozenset[str]] = []
        """Clients with a request that waits, after each step was formed."""
        self._cost, self._collector = cost, collector
        self._host_pages, self._by_client = host_pages, by_client
        self._tracks: dict[Sequence, Track] = {}
        self._now = self._device_free = 0.0
        self._in_flight: tuple[Schedule, float] | None = None

    def run(self, jobs: Iterable[Job]) -> Iterator[int]:
        """Play all jobs; yields the number of requests that ended so far, after every step.

        Raises:
            RuntimeError: at the end a request has not ended or a page is not free.
        """
        source = iter(jobs)
        following = next(source, None)
        while following is not None or self._tracks or self._in_flight is not None:
            if not self._tracks and self._in_flight is None and following is not None:
                self._now = max(self._now, following.request.arrival)
            while following is not None and following.request.arrival <= self._now:
                self.add(following)
                following = next(source, None)
            self.step()
            yield len(self.requests)
        self._check()

    def add(self, job: Job) -> None:
        """A request arrives."""
        request = job.request
        prompt = len(request.prompt_token_ids)
        limit = sequence_limit(prompt, request.params.max_tokens, MAX_MODEL_LEN, self.blocks)
        sequence = Sequence(request, 0, max_len=limit)
        self._tracks[sequence] = Track(min(prompt + job.length, limit))
        self.scheduler.add(sequence)

    def step(self) -> None:
        """Form a step and dispatch it; then wait for the one before and read its tokens."""
        collected, before = self._collector.seconds, time.thread_time()
        schedule = self.scheduler.schedule()
        host = time.thread_time() - before
        collected = self._collector.seconds - collected
        for sequence in schedule.admitted:
            track = self._tracks[sequence]
            if track.first_scheduled < 0:
                track.first_scheduled = self._now
        landed, self._in_flight = self._in_flight, self._dispatch(schedule, host, collected)
        if landed is not None:
            self._now = max(self._now, landed[1])
            self._land(landed[0])
        elif self._in_flight is None:
            raise RuntimeError("nothing runs and nothing is in flight: the scheduler is stuck")

    def _dispatch(
        self, schedule: Schedule, host: float, collected: float
    ) -> tuple[Schedule, float] | None:
        """Give a step to the device: it and the time at which it will be done; None if empty."""
        rows, tokens, cost = len(schedule.chunks), schedule.num_tokens, self._cost
        moved = sum(len(p) for _, p in (*schedule.swapped_out, *schedule.swapped_in))
        device = cost.base + cost.per_token * tokens + cost.per_row * rows
        device += cost.per_swapped_page * moved
        self.steps.add(
            *(self._now, host, collected, device if rows else 0.0, rows, tokens),
            *(self.scheduler.num_running, self.scheduler.num_waiting),
            *(len(schedule.preempted), len(schedule.swapped_out)),
            self.blocks.num_total - self.blocks.num_free,
        )
        if self._by_client:
            self._note_clients(schedule)
        if not rows:
            return None
        self._device_free = max(self._now, self._device_free) + device
        return schedule, self._device_free

    def _note_clients(self, schedule: Schedule) -> None:
        served: Counter[str] = Counter()
        for chunk in schedule.chunks:
            served[chunk.sequence.request.client] += chunk.length
        self.served.append(served)
        self.backlogged.append(frozenset(s.request.client for s in self.scheduler.waiting))

    def _land(self, schedule: Schedule) -> None:
        """Read a step's tokens, as the engine's loop does."""
        now, tracks = self._now, self._tracks
        for sequence, start, length, samples in schedule.chunks:
            if not samples:
                continue
            sequence.num_pending -= 1
            track = tracks.get(sequence)
            if track is None:  # It ended one step ago; this token was sampled ahead of time.
                continue
            tokens, position = sequence.token_ids, start + length
            if len(tokens) != position:
                raise RuntimeError(f"token {position} arrives when {len(tokens)} are known")
            tokens.append(token_at(sequence.request.request_id, position))
            if track.first_token < 0:
                track.first_token = now
            elif now - track.newest_token > track.longest_gap:
                track.longest_gap = now - track.newest_token
            track.newest_token = now
            if position + 1 == track.length:
                self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        track, request = self._tracks.pop(sequence), sequence.request
        self.requests.add(
            request.request_id,
            request.priority,
            track.first_scheduled - request.arrival,
            track.first_token - request.arrival,
            self._now - request.arrival,
            track.longest_gap,
            len(sequence.token_ids),
        )
        self.clients.append(request.client)

    def _check(self) -> None:
        scheduler, blocks = self.scheduler, self.blocks
        if scheduler.has_work or self._tracks:
            raise RuntimeError(f"{len(self._tracks)} requests have not ended")
        if blocks.num_free != blocks.num_total or blocks.num_host_free != self._host_pages:
            raise RuntimeError(
                f"{blocks.num_free} of {blocks.num_total} pages and {blocks.num_host_free} of "
                f"{self._host_pages} host pages are free at the end"
            )
