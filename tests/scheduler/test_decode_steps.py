"""Several tokens at a time: only where all decode, from free pages, and never past the end."""

import pytest

from ferrum_jax.types import ConfigError, EngineConfig, UnsupportedError
from tests.scheduler.helpers import Bench, engine
from tests.scheduler.invariants import run_checked


def bench(steps, num_pages=40, **settings):
    return Bench(engine(decode_steps=steps, **settings), num_pages)


def gains(schedule):
    return [(chunk.steps, chunk.length) for chunk in schedule.chunks]


@pytest.mark.parametrize(("steps", "dispatches"), [(1, 12), (2, 6), (4, 3), (8, 2), (64, 1)])
@pytest.mark.parametrize("run_ahead", [False, True])
def test_dispatches_are_fewer(steps, dispatches, run_ahead):
    """13 tokens: one behind the prompt's step, the others as many at a time as may be."""
    b = bench(steps, run_ahead=run_ahead)
    sequence = b.add(5, 13)
    schedules = run_checked(b)
    assert sum(bool(schedule.chunks) for schedule in schedules) == 1 + dispatches
    b.check_all_ended()
    assert len(sequence.token_ids) == 18


def test_each_stops_at_its_own_end():
    b = bench(8, run_ahead=False, max_num_batched_tokens=16)
    b.add(3, 4)
    b.add(3, 20)
    b.step()
    assert gains(b.step()) == [(3, 3), (8, 8)]
    b.run()
    b.check_all_ended()


def test_a_prompt_among_them_makes_it_one_step():
    b = bench(8, run_ahead=False)
    b.add(3, 20)
    b.step()
    b.add(12, 2)
    assert gains(b.step()) == [(1, 1), (1, 7)]
    assert gains(b.step()) == [(1, 1), (1, 5)]
    assert gains(b.step()) == [(8, 8), (1, 1)]
    b.run()
    b.check_all_ended()


def test_one_that_the_host_looks_at_makes_it_one_step():
    b = bench(8, run_ahead=False)
    b.add(3, 20)
    watched = b.add(3, 3, single_steps=True)
    while not watched.finished:
        assert {chunk.steps for chunk in b.step().chunks} == {1}
    assert gains(b.step()) == [(8, 8)]
    b.run()
    b.check_all_ended()


def test_nobody_takes_the_next_page_of_another():
    """Of 3 free pages two sequences get theirs; neither gives way for what the other has ahead."""
    b = bench(8, num_pages=7, run_ahead=False, max_num_seqs=2, max_num_batched_tokens=16)
    b.add(4, 8)
    b.add(4, 8)
    schedules = run_checked(b)
    assert not any(schedule.preempted for schedule in schedules)
    assert max(chunk.steps for schedule in schedules for chunk in schedule.chunks) == 7
    b.check_all_ended()


def test_scarce_pages_make_it_fewer_steps():
    b = bench(8, num_pages=4, run_ahead=False, max_num_seqs=2, max_num_batched_tokens=16)
    b.add(2, 5)
    b.add(2, 4)
    b.step()
    assert gains(b.step()) == [(2, 2), (2, 2)]
    b.run()
    b.check_all_ended()


def test_tokens_at_once_count_as_service():
    b = bench(4, policy="fair_share", run_ahead=False)
    b.add(2, 9, client="a")
    b.step()
    b.step()
    assert b.scheduler._policy.group_rank("a") == 2 + 4


@pytest.mark.parametrize("value", [0, 65, True, 2.0, "4"])
def test_a_number_from_1_to_64(value):
    with pytest.raises(ConfigError, match="decode_steps"):
        EngineConfig(decode_steps=value)


@pytest.mark.parametrize("other", [{"batch_invariant": True}, {"speculative": "ngram"}])
def test_what_it_does_not_go_with(other):
    (name,) = other
    with pytest.raises(UnsupportedError, match=f"decode_steps = 4 does not go with {name}"):
        EngineConfig(decode_steps=4, **other)
