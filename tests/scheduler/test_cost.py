"""Forming a step is cheap beside running it: the cost per row is a few Python objects.

Times are compared with each other on the machine at hand, never with seconds.
"""

import time
from collections.abc import Callable

import pytest

from ferrum_jax.kv import BlockTableManager
from ferrum_jax.scheduler import ContinuousScheduler, make_policy
from ferrum_jax.types import (
    BlockTable,
    DataType,
    EngineConfig,
    KVCacheConfig,
    Request,
    SamplingParams,
    Schedule,
    ScheduledChunk,
    Sequence,
)
from ferrum_jax.types.engine import POLICIES

PROMPT_LEN = 8


PARAMS = SamplingParams(max_tokens=300)


def decoding(
    count: int, *, waiting: int = 0, policy: str = "fcfs", clients: int = 1,
    prompt_len: int = PROMPT_LEN, num_pages: int | None = None, **settings
) -> ContinuousScheduler:  # fmt: skip
    """A scheduler with `count` sequences that decode and more that wait for a slot."""
    engine = EngineConfig(
        max_num_seqs=count, max_num_batched_tokens=count * prompt_len, policy=policy, **settings
    )
    kv = KVCacheConfig(num_pages or count * 20 + 1, engine.page_size, DataType.FLOAT32)
    blocks = BlockTableManager(kv, prefix_caching=engine.prefix_caching)
    scheduler = ContinuousScheduler(engine, blocks, make_policy(engine), 320)
    for i in range(count + waiting):
        request = Request(
            i, (i,) * prompt_len, PARAMS, arrival=float(i), client=f"client {i % clients}"
        )
        scheduler.add(Sequence(request, 0, max_len=prompt_len + 300))
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


@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_costs_little_more_than_the_chunk_that_it_becomes(policy):
    scheduler = decoding(256, policy=policy)
    sequence = scheduler.running[0]
    chunks = least(lambda: [ScheduledChunk(sequence, 0, 1, True) for _ in range(256)])
    assert cost(scheduler) < 10 * chunks


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_the_cost_grows_no_faster_than_the_rows(prefix_caching):
    """Up to 2,048 rows; the factor of 3 is for what a larger working set costs the processor."""
    few, many = (decoding(n, prefix_caching=prefix_caching) for n in (64, 2048))
    assert cost(many) < 3 * 32 * cost(few)  # Were it quadratic: 32 * 32.


@pytest.mark.parametrize("policy", ["fcfs", "priority", "sjf", "fair_share"])
def test_those_that_wait_cost_nothing_while_no_slot_is_free(policy):
    """Nobody asks for the first in line then, not even of 2,000 clients' lines."""
    crowded = decoding(64, waiting=2000, policy=policy, clients=2000)
    assert cost(crowded) < 3 * cost(decoding(64, policy=policy))


def test_under_round_robin_a_row_asks_who_waits_at_a_constant_cost():
    """Each row asks whether the first in line could start: its cost, whatever the line's length."""
    few, many = (decoding(64, waiting=n, policy="round_robin", quantum=1000) for n in (1, 2000))
    assert cost(many) < 3 * cost(few)
    assert cost(many) < 6 * cost(decoding(64))


def test_a_free_slot_costs_a_look_at_the_line_of_each_client_under_fair_share():
    """Of each client, not of each sequence: its level may have changed since the last step."""
    few, many = (blocked(clients=50, waiting=n, policy="fair_share") for n in (50, 5000))
    assert cost(many) < 3 * cost(few)


def blocked(**options) -> ContinuousScheduler:
    """A free slot, and no pages for the first in line: it is looked at in every step."""
    scheduler = decoding(64, **options)
    blocks = scheduler._blocks
    scheduler.finish(scheduler.running[0])
    blocks.prepare(BlockTable(), 0, blocks.num_free * blocks.page_size)
    return scheduler


@pytest.mark.parametrize("policy", POLICIES)
def test_that_many_give_way_at_once_costs_each_no_more(policy):
    """Every row needs a page and none is free: half of them give way to the others."""

    def cost_of_crowd(count: int) -> float:
        times = []
        for _ in range(3):
            page = EngineConfig().page_size
            crowd = decoding(count, policy=policy, prompt_len=page, num_pages=count + 1)
            start = time.thread_time()
            schedule = crowd.schedule()
            times.append(time.thread_time() - start)
            assert len(schedule.preempted) == count // 2
        return min(times)

    assert cost_of_crowd(1024) < 3 * 8 * cost_of_crowd(128)
