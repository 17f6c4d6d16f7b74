"""Which idle page goes first, each policy against a few plain lines of Python."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.interfaces import EvictionPolicy
from ferrum_jax.kv.eviction import FIFO, LRU, Clock, make_eviction
from ferrum_jax.types import ConfigError
from ferrum_jax.types.engine import EVICTIONS


class PlainLRU:
    """Idle pages in the order in which they were used last."""

    def __init__(self):
        self.idle: list[int] = []

    def add(self, page):
        self.idle.append(page)

    def remove(self, page):
        self.idle.remove(page)

    def forget(self, page):
        self.idle = [p for p in self.idle if p != page]

    def victim(self):
        return self.idle[0] if self.idle else None


class PlainFIFO(PlainLRU):
    """Known pages in the order in which they first were idle."""

    def __init__(self):
        super().__init__()
        self.known: list[int] = []

    def add(self, page):
        self.idle.append(page)
        if page not in self.known:
            self.known.append(page)

    def forget(self, page):
        super().forget(page)
        self.known = [p for p in self.known if p != page]

    def victim(self):
        return next((p for p in self.known if p in self.idle), None)


class PlainClock(PlainLRU):
    """A ring of pages and those used since the hand, always at its head, passed them last.

    A page that is in use leaves the ring when the hand comes by, and is put in behind the hand
    when it is idle again.
    """

    def __init__(self):
        super().__init__()
        self.ring: list[int] = []
        self.used: set[int] = set()

    def add(self, page):
        self.idle.append(page)
        if page not in self.ring:
            self.ring.append(page)

    def remove(self, page):
        self.idle.remove(page)
        self.used.add(page)

    def forget(self, page):
        super().forget(page)
        self.used.discard(page)

    def victim(self):
        while self.idle:
            head = self.ring[0]
            if head in self.idle and head not in self.used:
                return head
            self.ring = self.ring[1:] + ([head] if head in self.idle else [])
            self.used.discard(head) if head in self.idle else None
        return None


PLAIN = {"lru": PlainLRU, "fifo": PlainFIFO, "clock": PlainClock}


@pytest.mark.parametrize("name", EVICTIONS)
@settings(max_examples=150, deadline=None)
@given(calls=st.lists(st.tuples(st.sampled_from("arafv"), st.integers(0, 6)), max_size=60))
def test_any_order_of_calls_gives_the_victims_of_the_plain_model(name, calls):
    """a: comes to be idle, or is used again if it is; f: is forgotten; v: the victim goes."""
    policy, plain = make_eviction(name), PLAIN[name]()
    for verb, page in calls:
        if verb == "v":
            page = policy.victim()
            assert page == plain.victim()
        if verb in "fv" and page is not None:
            policy.forget(page)
            plain.forget(page)
        elif verb in "ar":
            call = "remove" if page in plain.idle else "add"
            getattr(policy, call)(page)
            getattr(plain, call)(page)
        assert len(policy) == len(plain.idle)
    order = []
    while (page := policy.victim()) is not None:
        order.append(page)
        assert page == plain.victim()
        policy.forget(page)
        plain.forget(page)
    assert len(order) == len(set(order))
    assert len(policy) == len(plain.idle) == 0


def used_again(policy: EvictionPolicy) -> list[int]:
    """The order of eviction of pages 1, 2 and 3, idle in that order, after 1 was used again."""
    for page in (1, 2, 3):
        policy.add(page)
    policy.remove(1)
    policy.add(1)
    order = []
    while (page := policy.victim()) is not None:
        order.append(page)
        policy.forget(page)
    return order


def test_use_saves_a_page_under_lru_and_clock_and_not_under_fifo():
    assert used_again(LRU()) == [2, 3, 1]
    assert used_again(Clock()) == [2, 3, 1]
    assert used_again(FIFO()) == [1, 2, 3]


def test_the_clock_gives_a_second_chance_and_no_third():
    clock = Clock()
    for page in (1, 2):
        clock.add(page)
        clock.remove(page)
        clock.add(page)
    assert clock.victim() == 1


@pytest.mark.parametrize("name", EVICTIONS)
def test_without_idle_pages_there_is_no_victim(name):
    policy = make_eviction(name)
    assert policy.victim() is None
    policy.forget(5)
    policy.add(5)
    policy.remove(5)
    assert (policy.victim(), len(policy)) == (None, 0)


@pytest.mark.parametrize("name", EVICTIONS)
@pytest.mark.parametrize("how", ["used", "forgotten", "evicted"])
def test_what_it_keeps_is_bounded_by_the_pages(name, how):
    """However often they are used, and whether or not anything is evicted in between."""
    policy = make_eviction(name)
    for i in range(5000):
        page = i % 10
        policy.add(page)
        if how == "used":
            policy.remove(page)
        elif how == "forgotten":
            policy.forget(page)
        else:
            policy.forget(policy.victim())
    assert max(len(part) for part in vars(policy).values() if hasattr(part, "__len__")) <= 40


def test_another_name_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"'random'.*lru, fifo, clock"):
        make_eviction("random")
