"""Pages are free or held, and every hold is given up once."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrum_jax.kv import BlockPool
from ferrum_jax.types import TRASH_PAGE, ResourceExhausted, SchedulerError


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
