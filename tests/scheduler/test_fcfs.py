"""First come, first served; the youngest gives way."""

from ferrum_jax.interfaces import SchedulingPolicy
from ferrum_jax.scheduler import FCFSPolicy
from ferrum_jax.types import Request, RequestState, SamplingParams, Sequence


def sequence(request_id: int, arrival: float, index: int = 0, *, preempted=False) -> Sequence:
    request = Request(request_id, (1,), SamplingParams(), arrival=arrival)
    state = RequestState.PREEMPTED if preempted else RequestState.WAITING
    return Sequence(request, index, max_len=8, state=state)


def test_the_order_is_that_of_arrival_then_of_the_request_then_of_the_completion():
    late, early = sequence(0, 2.0), sequence(3, 1.0)
    second, first = sequence(2, 1.0, index=1), sequence(2, 1.0, index=0)
    ordered = sorted([late, early, second, first], key=FCFSPolicy().rank)
    assert ordered == [first, second, early, late]


def test_the_preempted_go_first_by_arrival():
    fresh, young = sequence(0, 0.0), sequence(2, 5.0, preempted=True)
    old = sequence(1, 4.0, preempted=True)
    assert sorted([fresh, young, old], key=FCFSPolicy().rank) == [old, young, fresh]


def test_the_youngest_gives_way():
    old, young = sequence(0, 1.0), sequence(1, 2.0)
    twin = sequence(1, 2.0, index=1)
    assert max([young, twin, old], key=FCFSPolicy().rank) is twin


def test_all_wait_in_one_line_and_keep_their_slots():
    policy: SchedulingPolicy = FCFSPolicy()
    one, other = sequence(0, 1.0), sequence(1, 2.0)
    assert policy.group(one) == policy.group(other)
    assert not policy.takes_turns
    assert not policy.has_had_its_turn(one)
