"""Block tables grow by whole pages, share them when forked, and give them back."""

import pytest

from ferrum_jax.interfaces import BlockManager
from ferrum_jax.kv import BlockTableManager
from ferrum_jax.types import BlockTable, DataType, KVCacheConfig, ResourceExhausted


def manager(num_pages: int = 7, page_size: int = 4) -> BlockTableManager:
    return BlockTableManager(KVCacheConfig(num_pages, page_size, DataType.FLOAT32))


def test_it_is_a_block_manager():
    blocks: BlockManager = manager()
    assert (blocks.num_total, blocks.num_free, blocks.page_size) == (6, 6, 4)


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_token_over_a_page_needs_another(tokens, pages):
    assert manager().pages_for(tokens) == pages


def test_a_table_grows_only_by_what_is_missing():
    blocks, table = manager(), BlockTable()
    blocks.grow(table, 5)
    first = list(table.pages)
    assert len(first) == 2
    blocks.grow(table, 8)
    blocks.grow(table, 3)
    assert table.pages == first
    blocks.grow(table, 9)
    assert table.pages[:2] == first
    assert (len(table), blocks.num_free) == (3, 3)


def test_what_cannot_grow_says_so_and_stays_as_it_was():
    blocks, table, other = manager(), BlockTable(), BlockTable()
    blocks.grow(other, 16)
    blocks.grow(table, 4)
    assert blocks.can_grow(table, 8)
    assert not blocks.can_grow(table, 9)
    with pytest.raises(ResourceExhausted, match=r"12 tokens needs 2 more .* 1 of 6 are free"):
        blocks.grow(table, 12)
    assert (len(table), blocks.num_free) == (1, 1)


def test_a_full_pool_still_lets_a_table_keep_what_it_has():
    blocks, table = manager(num_pages=2), BlockTable()
    blocks.grow(table, 1)
    assert blocks.can_grow(table, 4)
    blocks.grow(table, 4)


def test_a_fork_shares_pages_until_both_are_released():
    blocks, table = manager(), BlockTable()
    blocks.grow(table, 10)
    fork = blocks.fork(table)
    assert fork.pages == table.pages
    assert blocks.num_free == 3
    blocks.grow(fork, 13)
    assert (len(table), len(fork), blocks.num_free) == (3, 4, 2)
    blocks.release(table)
    assert (table.pages, blocks.num_free) == ([], 2)
    assert all(blocks.pool.holders(page) == 1 for page in fork.pages)
    blocks.release(fork)
    assert blocks.num_free == 6


def test_releasing_twice_does_no_harm():
    blocks, table = manager(), BlockTable()
    blocks.grow(table, 10)
    blocks.release(table)
    blocks.release(table)
    assert blocks.num_free == blocks.num_total
