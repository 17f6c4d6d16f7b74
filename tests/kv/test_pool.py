"""Pages are free or held, and every hold is given up once."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.kv import BlockPool
from ferrum_jax.kv.eviction import make_eviction
from ferrum_jax.kv.prefix import PrefixCache
from ferrum_jax.types import TRASH_PAGE, ResourceExhausted, SchedulerError
from ferrum_jax.types.engine import EVICTIONS


def test_every_page_but_the_trash_page_is_handed_out_once():
    pool = BlockPool(5)
    assert (pool.num_free, pool.num_total) == (4, 4)
    pages = pool.allocate(4)
    assert sorted(pages) == [1, 2, 3, 4]
    assert TRASH_PAGE not in pages
    assert pool.num_free == 0
    pool.free(pages)
    assert pool.num_free == 4


def test_a_shared_page_is_free_after_its_last_holder():
    pool = BlockPool(3)
    pages = pool.allocate(1)
    pool.share(pages)
    assert pool.holders(pages[0]) == 2
    pool.free(pages)
    assert pool.num_free == 1
    pool.free(pages)
    assert pool.num_free == 2


def test_too_many_pages_are_refused_whole_with_the_figures():
    pool = BlockPool(6)
    pool.allocate(2)
    with pytest.raises(ResourceExhausted, match=r"4 KV pages are needed and 3 of 5 .*num_pages"):
        pool.allocate(4)
    assert pool.num_free == 3


@pytest.mark.parametrize("page", [TRASH_PAGE, 2, 4, -1])
@pytest.mark.parametrize("verb", ["free", "share"])
def test_a_page_that_nobody_holds_cannot_be_given_up_or_shared(verb, page):
    pool = BlockPool(4)
    assert pool.allocate(1) == [1]
    with pytest.raises(SchedulerError, match=f"page {page} "):
        getattr(pool, verb)([page])
    assert (pool.num_free, pool.holders(1)) == (2, 1)


def test_a_page_given_up_twice_in_one_call_is_a_double_free():
    pool = BlockPool(4)
    pages = pool.allocate(1)
    with pytest.raises(SchedulerError, match="nobody holds it"):
        pool.free(pages * 2)
    assert pool.num_free == 3


def test_a_pool_of_the_trash_page_alone_is_refused():
    with pytest.raises(SchedulerError, match="at least 2"):
        BlockPool(1)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 12), st.lists(st.tuples(st.sampled_from("asf"), st.integers(0, 11))))
def test_any_order_of_calls_keeps_the_count(num_pages, calls):
    """Against a multiset of holds: allocate, share one held page, free one held page."""
    pool, holds = BlockPool(num_pages), Counter()
    for verb, number in calls:
        held = sorted(+holds)
        if verb == "a":
            count = number % 4
            if count > num_pages - 1 - len(held):
                with pytest.raises(ResourceExhausted):
                    pool.allocate(count)
            else:
                pages = pool.allocate(count)
                assert not set(pages) & set(held)
                holds.update(pages)
        elif held:
            page = held[number % len(held)]
            (pool.share if verb == "s" else pool.free)([page])
            holds[page] += 1 if verb == "s" else -1
        holds = +holds
        assert pool.num_free == num_pages - 1 - len(holds)
        assert [pool.holders(page) for page in range(num_pages)] == [
            holds[page] for page in range(num_pages)
        ]


class TestWithACache:
    def test_a_cached_page_that_nobody_holds_counts_as_free_and_goes_last(self):
        cache = PrefixCache(make_eviction("lru"))
        pool = BlockPool(4, cache)
        cached, other = pool.allocate(2)
        cache.insert(cached, b"a", (1,), None, "")
        pool.free([cached, other])
        assert (pool.num_free, cache.num_idle) == (3, 1)
        assert cached not in pool.allocate(2)
        assert pool.allocate(1) == [cached]
        assert cached not in cache

    def test_a_cached_page_is_taken_whether_somebody_holds_it_or_not(self):
        cache = PrefixCache(make_eviction("lru"))
        pool = BlockPool(3, cache)
        (page,) = pool.allocate(1)
        cache.insert(page, b"a", (1,), None, "")
        pool.take_cached(page)
        assert (pool.holders(page), pool.num_free) == (2, 1)
        pool.free([page, page])
        pool.take_cached(page)
        assert (pool.holders(page), pool.num_free, cache.num_idle) == (1, 1, 0)

    @pytest.mark.parametrize("cache", [None, PrefixCache(make_eviction("lru"))])
    def test_a_page_that_is_not_cached_is_not_taken_as_such(self, cache):
        pool = BlockPool(3, cache)
        with pytest.raises(SchedulerError, match="page 1 is not in the prefix cache"):
            pool.take_cached(1)
        assert pool.num_free == 2

    def test_too_many_pages_are_refused_before_any_is_evicted(self):
        cache = PrefixCache(make_eviction("lru"))
        pool = BlockPool(3, cache)
        (page,) = pool.allocate(1)
        cache.insert(page, b"a", (1,), None, "")
        pool.free([page])
        with pytest.raises(ResourceExhausted, match="3 KV pages are needed and 2 of 2"):
            pool.allocate(3)
        assert page in cache

    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_any_order_of_calls_keeps_the_count(self, data):
        """Each page is held, idle in the cache or free; chains are cached behind one another."""
        cache = PrefixCache(make_eviction(data.draw(st.sampled_from(EVICTIONS))))
        num_pages = data.draw(st.integers(2, 8))
        pool, holds, last, number = BlockPool(num_pages, cache), Counter(), None, 0
        calls = st.lists(st.tuples(st.sampled_from("aafcct"), st.integers(0, 7)), max_size=40)
        for verb, choice in data.draw(calls):
            held, known = sorted(+holds), [p for p in range(num_pages) if p in cache]
            if verb == "a" and pool.num_free:
                holds.update(pool.allocate(1 + choice % pool.num_free))
            elif verb == "f" and held:
                pool.free([held[choice % len(held)]])
                holds[held[choice % len(held)]] -= 1
            elif verb == "t" and known:
                pool.take_cached(known[choice % len(known)])
                holds[known[choice % len(known)]] += 1
            elif verb == "c" and held:
                number += 1
                page, before = held[choice % len(held)], last if choice % 2 else None
                last = cache.insert(page, b"%d" % number, (number,), before, "") or last
            elif verb == "c" and choice == 0:
                pool.uncache(cache.clear())
            holds = +holds
            assert [pool.holders(page) for page in range(num_pages)] == [
                holds[page] for page in range(num_pages)
            ]
            assert pool.num_free == num_pages - 1 - len(holds)
            assert cache.num_idle == sum(p in cache and not holds[p] for p in range(num_pages))
        free = pool.allocate(pool.num_free)
        assert sorted([*free, *holds]) == list(range(1, num_pages))
