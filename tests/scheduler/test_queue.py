"""The waiting line: a heap from whose middle sequences are taken, against a sorted list."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.scheduler import FairSharePolicy, FCFSPolicy, PriorityPolicy, WaitingQueue
from ferrum_jax.types import Priority, Request, SamplingParams, Sequence

PARAMS = SamplingParams()


def sequence(request_id: int, arrival: float = 0.0, client: str = "") -> Sequence:
    request = Request(request_id, (1,), PARAMS, arrival=arrival, client=client)
    return Sequence(request, 0, max_len=4)


def drain(queue: WaitingQueue) -> list[Sequence]:
    order = []
    while (first := queue.first()) is not None:
        order.append(first)
        queue.remove(first)
    return order


def num_entries(queue: WaitingQueue) -> int:
    return sum(len(line) for line in queue._lines.values())


def test_an_empty_queue_has_no_first():
    queue = WaitingQueue(FCFSPolicy())
    assert queue.first() is None
    assert len(queue) == 0
    queue.remove(sequence(0))


def test_one_that_comes_again_has_one_place_the_new_one():
    queue = WaitingQueue(FCFSPolicy())
    early, late = sequence(0, 0.0), sequence(1, 1.0)
    queue.push(early)
    queue.push(late)
    queue.remove(early)
    queue.push(early)
    assert drain(queue) == [early, late]


def test_pushing_raises_the_place_in_line_and_an_update_keeps_it():
    queue = WaitingQueue(FCFSPolicy())
    one, other = sequence(0), sequence(1)
    queue.push(one)
    queue.push(other)
    assert one.queued < other.queued
    place = one.queued
    queue.update(one)
    assert one.queued == place
    queue.remove(one)
    queue.update(one)
    assert one not in queue


def test_those_that_left_are_not_kept():
    """Whether from the middle of a line that lives on, or as the last of theirs."""
    for policy in (FCFSPolicy(), FairSharePolicy({})):
        queue = WaitingQueue(policy)
        queue.push(sequence(0, -1.0))
        for i in range(1, 3000):
            leaving = sequence(i, float(i), client=str(i))
            queue.push(leaving)
            queue.remove(leaving)
        assert num_entries(queue) < 30


@pytest.mark.parametrize("policy", ["fcfs", "priority", "fair_share"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_order_of_calls_gives_the_order_of_a_sorted_list(policy, data):
    """The rank is that of the last push or update; clients' levels may change at any time."""
    levels: dict[str, float] = {}
    fair = FairSharePolicy({})
    fair.group_rank = levels.__getitem__
    queue = WaitingQueue(
        {"fcfs": FCFSPolicy(), "priority": PriorityPolicy(3.0), "fair_share": fair}[policy]
    )
    fields = st.tuples(st.integers(0, 5), st.sampled_from("abc"))
    pool = [
        sequence(i, float(arrival), client)
        for i, (arrival, client) in enumerate(
            data.draw(st.lists(fields, min_size=1, max_size=12), label="sequences")
        )
    ]
    levels.update(zip("abc", data.draw(st.permutations([0.0, 1.0, 2.0])), strict=True))
    waiting: list[Sequence] = []

    def place(s: Sequence) -> tuple:
        level = levels[s.request.client] if policy == "fair_share" else 0.0
        priority = s.priority if policy == "priority" else 0
        return level, s.request.arrival - 3.0 * priority, s.request.request_id

    verbs = st.sampled_from(["push", "remove", "update", "pop", "level"])
    for verb, number in data.draw(st.lists(st.tuples(verbs, st.integers(0, 11))), label="calls"):
        chosen = pool[number % len(pool)]
        if verb == "level":
            levels["abc"[number % 3]] = number + 0.5
        elif verb == "push" and chosen not in waiting:
            queue.push(chosen)
            waiting.append(chosen)
        elif verb == "update":
            chosen.priority = Priority(number % 4)
            queue.update(chosen)
        elif verb != "push":
            chosen = queue.first() if verb == "pop" else chosen
            if chosen is not None:
                queue.remove(chosen)
                waiting = [s for s in waiting if s is not chosen]
        assert len(queue) == len(waiting)
        assert set(queue) == set(waiting)
        assert queue.first() is min(waiting, key=place, default=None)
        assert num_entries(queue) <= 2 * len(waiting) + 3 * 16
    assert drain(queue) == sorted(waiting, key=place)
