"""Block tables grow by whole pages, share them when forked, copy on write, and give them back."""

import pytest

from ferrum_jax.interfaces import BlockManager
from ferrum_jax.kv import BlockTableManager
from ferrum_jax.types import BlockTable, DataType, KVCacheConfig, ResourceExhausted, SchedulerError

TOKENS = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]


def manager(num_pages: int = 7, page_size: int = 4, **options) -> BlockTableManager:
    return BlockTableManager(KVCacheConfig(num_pages, page_size, DataType.FLOAT32), **options)


def grown(blocks: BlockTableManager, num_tokens: int) -> BlockTable:
    """A table with pages of its own for so many tokens."""
    table = BlockTable()
    assert blocks.prepare(table, 0, num_tokens) == ()
    return table


def cached(blocks: BlockTableManager, num_tokens: int) -> BlockTable:
    """The same, its full pages offered to all."""
    table = grown(blocks, num_tokens)
    blocks.cache_full_pages(table, TOKENS, num_tokens, "")
    return table


def test_it_is_a_block_manager():
    blocks: BlockManager = manager()
    assert (blocks.num_total, blocks.num_free, blocks.page_size) == (6, 6, 4)


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_token_over_a_page_needs_another(tokens, pages):
    assert manager().pages_for(tokens) == pages


class TestPrepare:
    def test_a_table_grows_only_by_what_is_missing(self):
        blocks = manager()
        table = grown(blocks, 5)
        first = list(table.pages)
        assert len(first) == 2
        assert blocks.prepare(table, 5, 8) == ()
        assert table.pages == first
        assert blocks.prepare(table, 8, 9) == ()
        assert table.pages[:2] == first
        assert (len(table), blocks.num_free) == (3, 3)

    def test_what_cannot_grow_says_so_and_stays_as_it_was(self):
        blocks = manager()
        other, table = grown(blocks, 16), grown(blocks, 4)
        assert blocks.can_write(table, 4, 8)
        assert not blocks.can_write(table, 4, 9)
        before = list(table.pages)
        with pytest.raises(ResourceExhausted, match=r"12 tokens needs 2 more .* 1 of 6 are free"):
            blocks.prepare(table, 4, 12)
        assert (table.pages, len(other), blocks.num_free) == (before, 4, 1)

    @pytest.mark.parametrize("prefix_caching", [True, False])
    def test_a_copy_that_cannot_be_made_leaves_all_as_it_was(self, prefix_caching):
        blocks = manager(num_pages=3, prefix_caching=prefix_caching)
        table = grown(blocks, 6)
        fork = blocks.fork(table, 6)
        pages, digests = list(fork.pages), list(fork.digests)
        assert not blocks.can_write(fork, 6, 7)
        with pytest.raises(ResourceExhausted, match="needs 1 more KV pages"):
            blocks.prepare(fork, 6, 7)
        assert (fork.pages, fork.tail_shared, fork.digests) == (pages, True, digests)
        assert [blocks.pool.holders(page) for page in pages] == [2, 2]
        blocks.release(table)
        assert blocks.prepare(fork, 6, 7) == ()

    def test_a_full_pool_still_lets_a_table_keep_what_it_has(self):
        blocks = manager(num_pages=2)
        table = grown(blocks, 1)
        assert blocks.can_write(table, 1, 4)
        assert blocks.prepare(table, 1, 4) == ()


class TestFork:
    def test_it_shares_pages_until_both_are_released(self):
        blocks = manager()
        table = grown(blocks, 10)
        fork = blocks.fork(table, 10)
        assert fork.pages == table.pages
        assert blocks.num_free == 3
        blocks.release(table)
        assert (table.pages, blocks.num_free) == ([], 3)
        assert all(blocks.pool.holders(page) == 1 for page in fork.pages)
        blocks.release(fork)
        assert blocks.num_free == 6

    @pytest.mark.parametrize(("num_tokens", "pages"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)])
    def test_only_the_pages_that_its_tokens_fill(self, num_tokens, pages):
        blocks = manager()
        table = grown(blocks, 10)
        assert blocks.fork(table, num_tokens).pages == table.pages[:pages]

    def test_more_tokens_than_the_table_holds_are_refused(self):
        blocks = manager()
        with pytest.raises(SchedulerError, match=r"9 tokens fill 3 pages and the table has 2"):
            blocks.fork(grown(blocks, 8), 9)

    @pytest.mark.parametrize("first", ["parent", "fork"])
    def test_whoever_writes_first_copies_the_shared_tail_and_the_other_keeps_it(self, first):
        blocks = manager()
        parent = grown(blocks, 6)
        fork = blocks.fork(parent, 6)
        writer, other = (parent, fork) if first == "parent" else (fork, parent)
        shared = list(other.pages)
        ((old, new),) = blocks.prepare(writer, 6, 7)
        assert (old, writer.pages) == (shared[1], [shared[0], new])
        assert new not in shared
        assert blocks.prepare(other, 6, 7) == ()
        assert other.pages == shared
        assert blocks.prepare(writer, 7, 8) == ()

    def test_at_the_end_of_a_page_nobody_copies(self):
        blocks = manager()
        parent = grown(blocks, 8)
        fork = blocks.fork(parent, 8)
        for table in (parent, fork):
            assert blocks.prepare(table, 8, 9) == ()
        assert parent.pages[:2] == fork.pages[:2]
        assert parent.pages[2] != fork.pages[2]

    def test_of_three_the_last_keeps_the_page(self):
        blocks = manager()
        parent = grown(blocks, 2)
        forks = [blocks.fork(parent, 2) for _ in range(2)]
        copies = [len(blocks.prepare(table, 2, 3)) for table in (parent, *forks)]
        assert copies == [1, 1, 0]

    def test_a_copy_and_new_pages_come_together(self):
        blocks = manager()
        fork = blocks.fork(grown(blocks, 6), 6)
        ((old, new),) = blocks.prepare(fork, 6, 13)
        assert (len(fork), fork.pages[1], old in fork.pages) == (4, new, False)
        assert blocks.num_free == 1


class TestCachedTail:
    def test_a_cached_page_is_copied_though_nobody_else_holds_it(self):
        blocks = manager(prefix_caching=True)
        table = cached(blocks, 8)
        blocks.truncate(table, 6)
        ((old, new),) = blocks.prepare(table, 6, 7)
        assert old in blocks.prefix
        assert (new in blocks.prefix, table.pages[1], blocks.pool.holders(old)) == (False, new, 0)

    def test_a_fork_in_the_midst_of_a_cached_page_copies_it(self):
        blocks = manager(prefix_caching=True)
        table = cached(blocks, 8)
        fork = blocks.fork(table, 7)
        blocks.release(table)
        ((old, _),) = blocks.prepare(fork, 7, 8)
        assert old in blocks.prefix

    def test_no_copy_is_needed_once_the_page_is_forgotten(self):
        blocks = manager(prefix_caching=True)
        table = cached(blocks, 8)
        blocks.truncate(table, 6)
        blocks.clear_prefixes()
        assert blocks.prepare(table, 6, 7) == ()

    def test_one_found_by_its_prefix_writes_behind_it_and_copies_nothing(self):
        blocks = manager(prefix_caching=True)
        cached(blocks, 8)
        table = BlockTable()
        assert blocks.take_prefix(table, TOKENS, "", 11) == 8
        assert blocks.prepare(table, 8, 12) == ()

    def test_other_tokens_in_the_copy_are_cached_as_what_they_are(self):
        blocks = manager(prefix_caching=True)
        table = cached(blocks, 8)
        blocks.truncate(table, 6)
        blocks.prepare(table, 6, 8)
        other = [*TOKENS[:6], 99, 99]
        blocks.cache_full_pages(table, other, 8, "")
        for tokens in (TOKENS[:8], other):
            again = BlockTable()
            assert blocks.take_prefix(again, tokens, "", 8) == 8
        assert again.pages == table.pages


class TestTruncate:
    @pytest.mark.parametrize(("num_tokens", "pages"), [(0, 0), (1, 1), (4, 1), (5, 2), (12, 3)])
    def test_it_gives_up_the_pages_behind(self, num_tokens, pages):
        blocks = manager()
        table = grown(blocks, 12)
        kept = table.pages[:pages]
        blocks.truncate(table, num_tokens)
        assert (table.pages, blocks.num_free) == (kept, 6 - pages)

    def test_pages_that_others_hold_stay_theirs(self):
        blocks = manager()
        table = grown(blocks, 12)
        fork = blocks.fork(table, 12)
        blocks.truncate(table, 1)
        assert (len(fork), blocks.num_free) == (3, 3)
        ((old, _),) = blocks.prepare(table, 1, 2)
        assert old == fork.pages[0]

    def test_what_was_known_of_the_rest_is_forgotten(self):
        blocks = manager(prefix_caching=True)
        table = cached(blocks, 12)
        blocks.truncate(table, 5)
        assert (len(table.digests), table.num_cached) == (1, 1)
        assert table.anchor.page == table.pages[0]
        blocks.truncate(table, 0)
        assert (table.digests, table.num_cached, table.anchor) == ([], 0, None)


def test_releasing_twice_does_no_harm():
    blocks = manager()
    table = grown(blocks, 10)
    blocks.release(table)
    blocks.release(table)
    assert blocks.num_free == blocks.num_total


class TestSwap:
    def test_pages_go_for_room_in_host_memory_and_the_room_comes_back(self):
        blocks = manager(num_host_pages=3)
        table = grown(blocks, 9)
        pages = tuple(table.pages)
        assert blocks.swap_out(table, 9) == pages
        assert (blocks.num_host_free, blocks.num_free, table.pages) == (0, 6, [])
        blocks.swap_in(9)
        assert blocks.num_host_free == 3

    def test_a_page_that_holds_no_token_yet_does_not_go(self):
        blocks = manager(num_host_pages=3)
        table = grown(blocks, 9)
        assert len(blocks.swap_out(table, 8)) == 2
        assert (blocks.num_host_free, blocks.num_free) == (1, 6)

    def test_without_room_nothing_changes(self):
        blocks = manager(num_host_pages=2)
        table = grown(blocks, 9)
        pages = list(table.pages)
        assert blocks.swap_out(table, 9) is None
        assert (blocks.num_host_free, blocks.num_free, table.pages) == (2, 3, pages)

    def test_shared_pages_stay_with_the_others(self):
        blocks = manager(num_host_pages=3)
        table = grown(blocks, 9)
        fork = blocks.fork(table, 9)
        blocks.swap_out(table, 9)
        assert (blocks.num_free, len(fork)) == (3, 3)


def test_lookups_are_counted_in_tokens():
    blocks = manager()
    blocks.count_lookup(10, 4)
    blocks.count_lookup(5, 0)
    assert (blocks.num_queried, blocks.num_hits) == (15, 4)
