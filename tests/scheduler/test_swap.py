"""Under `preemption="swap"` a sequence's pages go to host memory and come back."""

import pytest

from ferrum_jax.types import Sequence
from tests.scheduler.helpers import Bench, engine, hold


def bench(num_pages: int = 9, num_host_pages: int = 20, **settings) -> Bench:
    options = {"preemption": "swap", "run_ahead": False, **settings}
    return Bench(engine(**options), num_pages=num_pages, num_host_pages=num_host_pages)


def swapped(b: Bench) -> Sequence:
    """One with 8 tokens in host memory, nobody else there."""
    sequence = b.add(7, 9)
    b.step()
    b.step()
    b.scheduler.preempt(sequence)
    return sequence


@pytest.mark.parametrize("run_ahead", [True, False])
def test_nothing_is_computed_twice(run_ahead):
    b = bench(run_ahead=run_ahead)
    older, younger = b.add(12, 16), b.add(12, 16)
    b.run()
    assert older.num_preemptions == 0
    assert younger.num_swaps == younger.num_preemptions > 0
    assert b.device.num_computed == 2 * 27
    b.check_all_ended()


def test_the_pages_go_out_in_the_step_that_needs_them_and_come_back_in_the_one_that_starts():
    b = bench()
    older, younger = b.add(12, 16), b.add(12, 16)
    schedule = b.step_until_preempted()
    ((who, pages),) = schedule.swapped_out
    assert who is younger
    assert (younger.swapped, len(pages)) == (True, b.blocks.pages_for(younger.num_scheduled))
    assert b.blocks.num_host_free == 20 - len(pages)
    for _ in b.steps_until_finished(older):
        assert younger.swapped
    ((who, back),) = b.step().swapped_in
    assert who is younger
    assert len(back) == len(pages)
    assert not younger.swapped
    assert b.blocks.num_host_free == 20


def test_where_host_memory_has_no_room_it_computes_anew():
    b = bench(num_host_pages=1)
    _, younger = b.add(12, 16), b.add(12, 16)
    b.run()
    assert younger.num_preemptions > younger.num_swaps == 0
    b.check_all_ended()


def test_one_that_has_nothing_in_its_pages_moves_nothing():
    b = bench(num_pages=5)
    sequence = b.add(1, 9)
    b.step()
    b.rewind(sequence, 1)
    b.scheduler.preempt(sequence)
    assert (sequence.num_preemptions, sequence.num_swaps) == (1, 0)
    assert b.blocks.num_host_free == 20
    b.run()
    b.check_all_ended()


def test_one_that_goes_and_comes_in_one_step_keeps_its_content():
    b = bench()
    sequence = swapped(b)
    schedule = b.step()
    assert [s for s, _ in schedule.swapped_out] == [s for s, _ in schedule.swapped_in] == [sequence]
    b.run()
    b.check_all_ended()


def test_one_that_ends_in_host_memory_gives_the_room_back():
    b = bench()
    b.add(12, 16)
    younger = b.add(12, 16)
    b.step_until_preempted()
    for _ in range(2):
        b.finish(younger)
        assert b.blocks.num_host_free == 20
    b.run()
    assert b.blocks.num_free == b.blocks.num_total


def test_one_that_ends_before_its_pages_went_moves_nothing():
    b = bench()
    sequence = swapped(b)
    b.finish(sequence)
    assert b.blocks.num_host_free == 20
    assert b.step().swapped_out == ()


def test_pages_that_are_shared_stay_with_the_others():
    b = bench(num_pages=20)
    parent = b.add(10, 9)
    b.step()
    b.step()
    twin = b.fork(parent)
    b.step()
    b.scheduler.preempt(parent)
    b.run()
    assert parent.num_swaps == 1
    assert twin.num_cached == 10
    b.check_all_ended()


def test_a_prompt_scored_to_its_end_and_swapped_before_it_is_read_ends():
    b = bench(run_ahead=True)
    sequence = b.add(6, score_only=True)
    b.step()
    b.scheduler.preempt(sequence)
    b.run()
    b.check_all_ended()


def test_rewinding_one_in_host_memory_computes_it_anew():
    b = bench()
    sequence = swapped(b)
    b.rewind(sequence, 8)
    assert (sequence.swapped, sequence.num_scheduled, b.blocks.num_host_free) == (False, 0, 20)
    assert b.step().swapped_out == ()
    b.run()
    b.check_all_ended()


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_a_copy_that_was_planned_is_dropped_with_its_sequence(preemption):
    """Its new page holds nothing yet: that is no content to move, and none to copy to."""
    b = bench(preemption=preemption, max_num_batched_tokens=16)
    young = b.add(5, 4, arrival=9.0)
    b.step()
    b.add(24, 2, arrival=1.0)
    b.step()
    b.snapshot(young)
    held = hold(b, 4)
    schedule = b.step()
    assert schedule.preempted == (young,)
    assert schedule.copies == schedule.swapped_out == ()
    assert not young.swapped
    b.blocks.release(held)
    b.run()
    b.check_all_ended()
