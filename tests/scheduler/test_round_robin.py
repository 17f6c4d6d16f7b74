"""Everybody in turn, a quantum of tokens each."""

import pytest

from ferrum_jax.types import Priority, Sequence
from tests.scheduler.helpers import Bench, engine


def bench(*, quantum: int = 4, num_pages: int = 40, num_host_pages: int = 0, **settings) -> Bench:
    options = {"policy": "round_robin", "quantum": quantum, "max_num_seqs": 1, **settings}
    return Bench(engine(**options), num_pages=num_pages, num_host_pages=num_host_pages)


def turns(b: Bench) -> list[tuple[Sequence, int]]:
    """Who ran, and how many tokens each turn brought, with one slot, to the end."""
    found: list[tuple[Sequence, int]] = []
    before: dict[Sequence, int] = {}
    while b.scheduler.has_work:
        for sequence in b.step().admitted:
            found.append((sequence, 0))
            before[sequence] = len(sequence.token_ids)
        if found:
            sequence = found[-1][0]
            found[-1] = (sequence, len(sequence.token_ids) - before[sequence])
    b.settle()
    return found


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("run_ahead", [True, False])
def test_everybody_has_turns_and_each_brings_a_quantum(run_ahead, preemption):
    b = bench(run_ahead=run_ahead, preemption=preemption, num_host_pages=40)
    for _ in range(3):
        b.add(4, 12)
    found = turns(b)
    assert [s.request.request_id for s, _ in found[:6]] == [0, 1, 2, 0, 1, 2]
    for sequence, count in found:
        assert count >= 4 or sequence.finished
        assert count <= 4 + run_ahead
    b.check_all_ended()


def test_nobody_rotates_while_nobody_waits():
    b = bench(max_num_seqs=2)
    first, second = b.add(4, 30), b.add(4, 30)
    b.run()
    assert first.num_preemptions == second.num_preemptions == 0


def test_one_that_waits_takes_a_free_slot_and_no_turn_of_another():
    b = bench(max_num_seqs=2, run_ahead=False)
    first = b.add(4, 30)
    for _ in range(10):
        b.step()
    b.add(4, 30)
    b.run()
    assert first.num_preemptions == 0


def test_only_as_many_rotate_as_the_next_in_line_needs():
    b = bench(max_num_seqs=3, run_ahead=False)
    running = [b.add(2, 30) for _ in range(3)]
    for _ in range(10):
        b.step()
    newcomer = b.add(2, 2)
    schedule = b.step()
    assert schedule.preempted == (running[0],)
    assert schedule.admitted == (newcomer,)


def test_one_without_a_turn_behind_it_keeps_its_slot():
    b = bench(max_num_seqs=2, run_ahead=False)
    b.add(2, 30)
    for _ in range(6):
        b.step()
    young = b.add(2, 30)
    b.step()
    b.add(2, 30)
    b.add(2, 30)
    b.step()
    assert young.num_preemptions == 0


def test_pages_too_few_for_the_next_in_line_rotate_as_well():
    b = bench(max_num_seqs=4, num_pages=8, run_ahead=False)
    small = b.add(4, 24)
    large = b.add(20, 4)
    schedules = b.steps_until_finished(large)
    assert [schedule for schedule in schedules if small in schedule.preempted]
    b.run()
    b.check_all_ended()


def test_the_one_that_started_its_turn_last_gives_way():
    b = bench(max_num_seqs=4, num_pages=5, quantum=100)
    first, second = b.add(7, 9), b.add(4, 9)
    assert b.step_until_preempted().preempted == (second,)
    b.run()
    assert first.num_preemptions == 0


def test_a_change_of_priority_costs_nobody_his_place():
    b = bench(run_ahead=False)
    first, second, third = (b.add(4, 2) for _ in range(3))
    b.step()
    b.scheduler.update_priority(second, Priority.HIGH)
    for _ in b.steps_until_finished(second):
        assert not third.finished
    assert first.finished


def test_swapping_computes_no_token_twice():
    computed = {}
    for preemption in ("recompute", "swap"):
        b = bench(preemption=preemption, num_host_pages=40)
        for _ in range(3):
            b.add(4, 12)
        b.run()
        b.check_all_ended()
        computed[preemption] = b.device.num_computed
    assert computed["swap"] == 3 * 15 < computed["recompute"]
