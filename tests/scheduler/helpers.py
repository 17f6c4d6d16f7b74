"""A scheduler with its parts, and a device that only keeps account of what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ferrum_jax.interfaces import SchedulingPolicy
from ferrum_jax.kv import BlockTableManager
from ferrum_jax.scheduler import ContinuousScheduler, make_policy, sequence_limit
from ferrum_jax.types import (
    DataType,
    EngineConfig,
    KVCacheConfig,
    Request,
    SamplingParams,
    Schedule,
    Sequence,
)

MAX_MODEL_LEN = 64


def token_at(request_id: int, index: int, position: int) -> int:
    """What this device samples: like the real one, a function of the sequence and the position."""
    return (7919 * request_id + 104_729 * index + 31 * position) % 997


@dataclass
class Bench:
    """An engine's loop around the scheduler, its device one step behind when it runs ahead.

    The device checks that each chunk finds the keys of its own earlier tokens in its pages.
    """

    engine: EngineConfig
    num_pages: int
    max_model_len: int = MAX_MODEL_LEN
    policy: SchedulingPolicy = field(default_factory=lambda: make_policy("fcfs"))
    blocks: BlockTableManager = field(init=False)
    scheduler: ContinuousScheduler = field(init=False)
    sequences: list[Sequence] = field(default_factory=list)
    in_flight: Schedule | None = None
    written: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)
    """By page and offset: which sequence's token lies there, and its position."""

    def __post_init__(self) -> None:
        kv = KVCacheConfig(self.num_pages, self.engine.page_size, DataType.FLOAT32)
        self.blocks = BlockTableManager(kv)
        self.scheduler = ContinuousScheduler(
            self.engine, self.blocks, self.policy, self.max_model_len
        )

    def make(
        self, prompt_len: int, max_tokens: int = 4, *, score_only: bool = False, index: int = 0,
        arrival: float | None = None,
    ) -> Sequence:  # fmt: skip
        """A new sequence, not yet added; `arrival` defaults to its place in line."""
        request_id = len(self.sequences)
        request = Request(
            request_id=request_id,
            prompt_token_ids=tuple(1 + i % 50 for i in range(prompt_len)),
            params=SamplingParams(max_tokens=max_tokens),
            score_only=score_only,
            arrival=float(request_id) if arrival is None else arrival,
        )
        limit = sequence_limit(prompt_len, max_tokens, self.max_model_len, self.blocks)
        sequence = Sequence(request, index, max_len=prompt_len if score_only else limit)
        self.sequences.append(sequence)
        return sequence

    def add(self, prompt_len: int, max_tokens: int = 4, **options) -> Sequence:
        sequence = self.make(prompt_len, max_tokens, **options)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Schedule:
        """Dispatch one step, then read the one before (or this one, when not running ahead)."""
        schedule = self.scheduler.schedule()
        self._write(schedule)
        landed, self.in_flight = self.in_flight, schedule
        if landed is not None:
            self._land(landed)
        if not self.engine.run_ahead:
            self._land(schedule)
            self.in_flight = None
        return schedule

    def steps_until_finished(self, sequence: Sequence, limit: int = 200) -> Iterator[Schedule]:
        """Each step up to the one in which the sequence ends; fails after `limit` of them."""
        for _ in range(limit):
            yield self.step()
            if sequence.finished:
                return
        raise AssertionError(f"{sequence} has not ended after {limit} steps")

    def step_until_preempted(self, limit: int = 50) -> Schedule:
        """The first step in which somebody gave way."""
        schedules = (self.step() for _ in range(limit))
        return next(schedule for schedule in schedules if schedule.preempted)

    def run(self, limit: int = 1000) -> int:
        """Steps until nothing is left to do; fails after `limit` of them."""
        for steps in range(limit):
            if not self.scheduler.has_work and self.in_flight is None:
                return steps
            self.step()
            if self.in_flight is not None and not self.scheduler.has_work:
                self._land(self.in_flight)
                self.in_flight = None
        raise AssertionError(f"work is left after {limit} steps: {self.scheduler.running}")

    def _write(self, schedule: Schedule) -> None:
        size = self.engine.page_size
        for chunk in schedule.chunks:
            sequence = chunk.sequence
            owner = (sequence.request.request_id, sequence.index)
            for position in range(chunk.start, chunk.start + chunk.length):
                page = sequence.blocks.pages[position // size]
                self.written[page, position % size] = (*owner, position)
            for position in range(chunk.start + chunk.length):
                page = sequence.blocks.pages[position // size]
                assert self.written.get((page, position % size)) == (*owner, position)

    def _land(self, schedule: Schedule) -> None:
        for chunk in schedule.chunks:
            sequence, end = chunk.sequence, chunk.start + chunk.length
            sequence.num_pending -= chunk.samples
            if sequence.finished:
                continue
            if chunk.samples:
                assert len(sequence.token_ids) == end, "a token arrives out of turn"
                sequence.token_ids.append(
                    token_at(sequence.request.request_id, sequence.index, end)
                )
            done = sequence.request.score_only and end == sequence.prompt_len
            if done or len(sequence.token_ids) == sequence.max_len:
                self.scheduler.finish(sequence)


def engine(**settings) -> EngineConfig:
    return EngineConfig(
        **{"page_size": 4, "max_num_seqs": 4, "max_num_batched_tokens": 8, **settings}
    )


def lengths(schedule: Schedule) -> list[tuple[int, int, int, bool]]:
    """Per chunk: request, start, length, samples."""
    return [(c.sequence.request.request_id, c.start, c.length, c.samples) for c in schedule.chunks]
