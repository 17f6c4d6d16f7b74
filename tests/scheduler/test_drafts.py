"""Drafts take what is left over, never what others need, and never change what is written."""

import pytest

from tests.scheduler.helpers import Bench, engine
from tests.scheduler.invariants import check_all, run_checked


def bench(drafts, num_pages=40, **settings):
    return Bench(engine(run_ahead=False, **settings), num_pages, drafts=drafts)


@pytest.mark.parametrize(("right", "steps"), [(0, 12), (1, 6), (2, 4), (3, 3)])
def test_right_drafts_save_steps(right, steps):
    """13 tokens: one behind the prompt's step, then 1 + `right` a step."""
    b = bench((3, right), max_num_batched_tokens=16)
    sequence = b.add(5, 13)
    assert b.run() == 1 + steps
    b.check_all_ended()
    assert len(sequence.token_ids) == 18


def test_each_decode_comes_before_any_draft():
    b = bench((3, 3), max_num_seqs=4, max_num_batched_tokens=6)
    for _ in range(4):
        b.add(1, 20)
    while len(b.scheduler.running) < 4:
        b.step()
    schedule = b.step()
    # Six tokens for four sequences: the first draft gets the two that are left over.
    assert [(c.length, len(c.draft)) for c in schedule.chunks] == [(3, 2), (1, 0), (1, 0), (1, 0)]
    b.run()
    b.check_all_ended()


def test_a_draft_takes_no_page_from_another():
    b = bench((3, 3), num_pages=7, max_num_seqs=2, max_num_batched_tokens=16)
    b.add(9, 3)
    b.add(9, 3)
    schedules = run_checked(b)
    assert not any(schedule.preempted for schedule in schedules)
    b.check_all_ended()


def test_without_free_pages_a_draft_is_dropped():
    b = bench((3, 3), num_pages=4, max_num_seqs=1, max_num_batched_tokens=16)
    sequence = b.add(10, 100)
    b.run()
    b.check_all_ended()
    assert len(sequence.token_ids) == 13


def test_a_draft_ends_before_the_last_token():
    """The verification brings a token of its own: a draft never has the last one."""
    b = bench((3, 3), max_num_batched_tokens=16)
    b.add(5, 4)
    lengths = [len(chunk.draft) for _ in range(2) for chunk in b.step().chunks]
    assert lengths == [0, 2]
    b.check_all_ended()


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_one_that_gives_way_while_its_draft_is_verified(preemption):
    """What was accepted is known only afterwards: it counts as computed for none of it."""
    b = Bench(
        engine(run_ahead=True, preemption=preemption, max_num_batched_tokens=16),
        40,
        drafts=(3, 3),
        num_host_pages=40 * (preemption == "swap"),
    )
    sequence = b.add(5, 30)
    while not sequence.num_drafted:
        b.step()
    known = len(sequence.token_ids)
    b.scheduler.preempt(sequence)
    check_all(b)
    assert sequence.num_scheduled == (known if preemption == "swap" else 0)
    b.settle()
    assert len(sequence.token_ids) == known + 4
    check_all(b)
    b.run()
    b.check_all_ended()
