"""Forming a step is cheap beside running it: the cost per row is a few Python objects.

Times are compared with each other on the machine at hand, never with seconds.
"""

import time
from collections.abc import Callable

from ferrum_jax.kv import BlockTableManager
from ferrum_jax.scheduler import ContinuousScheduler, make_policy
from ferrum_jax.types import (
    DataType,
    EngineConfig,
    KVCacheConfig,
    Request,
    SamplingParams,
    Schedule,
    ScheduledChunk,
    Sequence,
)

PROMPT_LEN = 8


def decoding(count: int, waiting: int = 0) -> ContinuousScheduler:
    """A scheduler with `count` sequences that decode and more that wait for a slot."""
    engine = EngineConfig(max_num_seqs=count, max_num_batched_tokens=count * PROMPT_LEN)
    kv = KVCacheConfig(count * 20 + 1, engine.page_size, DataType.FLOAT32)
    scheduler = ContinuousScheduler(engine, BlockTableManager(kv), make_policy("fcfs"), 320)
    params = SamplingParams(max_tokens=300)
    for i in range(count + waiting):
        request = Request(i, (1,) * PROMPT_LEN, params, arrival=float(i))
        scheduler.add(Sequence(request, 0, max_len=PROMPT_LEN + 300))
    land(scheduler.schedule())
    assert len(scheduler.running) == count
    return scheduler


def land(schedule: Schedule) -> None:
    for chunk in schedule.chunks:
        chunk.sequence.num_pending -= 1
        chunk.sequence.token_ids.append(1)


def cost(scheduler: ContinuousScheduler) -> float:
    """CPU seconds of `schedule()`."""
    schedules: list[Schedule] = []

    def run() -> None:
        schedules.append(scheduler.schedule())

    return least(run, between=lambda: land(schedules.pop()))


def least(run: Callable[[], object], between: Callable[[], object] = lambda: None) -> float:
    """CPU seconds of this thread, the least of 15: what else the machine does drops out."""
    times = []
    for _ in range(15):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
        between()
    return min(times)


def test_a_row_costs_little_more_than_the_chunk_that_it_becomes():
    scheduler = decoding(256)
    sequence = scheduler.running[0]
    chunks = least(lambda: [ScheduledChunk(sequence, 0, 1, True) for _ in range(256)])
    assert cost(scheduler) < 10 * chunks


def test_the_cost_grows_no_faster_than_the_rows():
    assert cost(decoding(256)) < 2 * 8 * cost(decoding(32))


def test_those_that_wait_cost_nothing_while_no_slot_is_free():
    assert cost(decoding(64, waiting=2000)) < 3 * cost(decoding(64))
