"""The more urgent go first, the least urgent give way, and waiting makes urgent."""

import pytest

from ferrum_jax.types import Priority, RequestState
from tests.scheduler.helpers import Bench, engine


def bench(**settings) -> Bench:
    options = {"policy": "priority", "ageing": 10.0, "max_num_seqs": 1, **settings}
    return Bench(engine(**options), num_pages=20)


def ends(bench: Bench, limit: int = 200) -> list[int]:
    """Request ids in the order in which they end."""
    order: list[int] = []
    for _ in range(limit):
        if not bench.scheduler.has_work:
            return order
        bench.step()
        ended = [s.request.request_id for s in bench.sequences if s.finished]
        order += [request_id for request_id in ended if request_id not in order]
    raise AssertionError("work is left")


def test_the_most_urgent_goes_first_and_equals_by_arrival():
    low, high, critical, normal, second = (
        Priority.LOW, Priority.HIGH, Priority.CRITICAL, Priority.NORMAL, Priority.HIGH,
    )  # fmt: skip
    b = bench()
    for priority in (low, high, critical, normal, second):
        b.add(2, 2, priority=priority, arrival=0.0)
    assert ends(b) == [2, 1, 4, 3, 0]


def test_a_level_is_worth_ageing_seconds_of_waiting():
    b = bench()
    b.add(2, 2, priority=Priority.HIGH, arrival=9.9)
    b.add(2, 2, priority=Priority.NORMAL, arrival=0.0)
    b.add(2, 2, priority=Priority.HIGH, arrival=10.1)
    assert ends(b) == [0, 1, 2]


def test_the_least_urgent_gives_way():
    b = Bench(engine(policy="priority", ageing=100.0), num_pages=5)
    low, high = b.add(4, 9, priority=Priority.LOW), b.add(7, 9, priority=Priority.HIGH)
    assert b.step_until_preempted().preempted == (low,)
    b.run()
    assert high.num_preemptions == 0
    b.check_all_ended()


def test_a_low_one_under_an_endless_stream_of_critical_ones_ends():
    """One comes every second and takes two: the line of critical ones only grows."""
    b = bench(run_ahead=False)
    low = b.add(2, 2, priority=Priority.LOW, arrival=0.0)
    for second in range(200):
        b.add(2, 2, priority=Priority.CRITICAL, arrival=float(second))
        b.step()
        if low.finished:
            break
    # Those that came up to 3 levels x 10 seconds later went first, 2 steps each.
    assert 60 <= second <= 66
    waiting = [s.request.arrival for s in b.sequences if s.state is RequestState.WAITING]
    assert min(waiting) >= 30.0


class TestUpdate:
    def test_of_one_that_waits_moves_it_in_the_line(self):
        b = bench()
        running, first, second = (b.add(2, 3, arrival=0.0) for _ in range(3))
        b.step()
        b.scheduler.update_priority(second, Priority.HIGH)
        assert ends(b) == [0, 2, 1]
        assert (running.priority, first.priority) == (Priority.NORMAL, Priority.NORMAL)

    def test_back_and_forth_leaves_the_line_as_it_was(self):
        b = bench()
        for _ in range(4):
            b.add(2, 2, arrival=0.0)
        for _ in range(20):
            b.scheduler.update_priority(b.sequences[3], Priority.CRITICAL)
            b.scheduler.update_priority(b.sequences[3], Priority.NORMAL)
        assert ends(b) == [0, 1, 2, 3]

    def test_of_one_that_runs_says_who_gives_way(self):
        b = Bench(engine(policy="priority", ageing=100.0), num_pages=5)
        older, younger = b.add(4, 9), b.add(7, 9)
        b.step()
        b.scheduler.update_priority(younger, Priority.HIGH)
        assert b.step_until_preempted().preempted == (older,)
        b.run()
        b.check_all_ended()

    @pytest.mark.parametrize("when", ["preempted", "finished"])
    def test_reaches_it_wherever_it_stands(self, when):
        b = bench(run_ahead=False)
        sequence = b.add(4, 4)
        b.step()
        if when == "preempted":
            b.scheduler.preempt(sequence)
        else:
            b.run()
        b.scheduler.update_priority(sequence, Priority.CRITICAL)
        assert sequence.priority is Priority.CRITICAL
        b.run()
        b.check_all_ended()
