"""First come, first served; the youngest gives way."""

import pytest

from ferrum_jax.scheduler import FCFSPolicy, make_policy
from ferrum_jax.types import Request, RequestState, SamplingParams, Sequence, UnsupportedError


def sequence(request_id: int, arrival: float, index: int = 0, *, preempted=False) -> Sequence:
    request = Request(request_id, (1,), SamplingParams(), arrival=arrival)
    state = RequestState.PREEMPTED if preempted else RequestState.WAITING
    return Sequence(request, index, max_len=8, state=state)


def test_the_order_is_that_of_arrival_then_of_the_request_then_of_the_completion():
    late, early = sequence(0, 2.0), sequence(3, 1.0)
    second, first = sequence(2, 1.0, index=1), sequence(2, 1.0, index=0)
    assert FCFSPolicy().order([late, early, second, first]) == [first, second, early, late]


def test_the_preempted_go_first_by_arrival():
    fresh, young = sequence(0, 0.0), sequence(2, 5.0, preempted=True)
    old = sequence(1, 4.0, preempted=True)
    assert FCFSPolicy().order([fresh, young, old]) == [old, young, fresh]


def test_the_victim_is_the_youngest():
    old, young = sequence(0, 1.0), sequence(1, 2.0)
    twin = sequence(1, 2.0, index=1)
    assert FCFSPolicy().victim([young, twin, old]) is twin
    assert FCFSPolicy().victim([]) is None


def test_a_policy_has_a_name_or_is_refused():
    assert isinstance(make_policy("fcfs"), FCFSPolicy)
    with pytest.raises(UnsupportedError, match=r"'sjf' is not supported.*'fcfs'"):
        make_policy("sjf")
