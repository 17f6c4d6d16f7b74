"""Cached pages are found by their tokens and all tokens before them, and by nothing else."""

import hashlib
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config

from ferrum_jax.kv import BlockTableManager
from ferrum_jax.kv.eviction import make_eviction
from ferrum_jax.kv.prefix import PrefixCache, hash_page, root_digest
from ferrum_jax.types import BlockTable, DataType, KVCacheConfig
from ferrum_jax.types.engine import EVICTIONS

PAGE = 2


def manager(num_pages: int = 9, **options) -> BlockTableManager:
    kv = KVCacheConfig(num_pages, PAGE, DataType.FLOAT32)
    return BlockTableManager(kv, prefix_caching=True, **options)


@pytest.fixture
def no_array_checks():
    """There are none here, and looking for them takes ten times as long as the work."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def constant(before: bytes, tokens) -> bytes:
    return b"x"


def start(blocks: BlockTableManager, tokens, salt: str = "") -> tuple[BlockTable, int]:
    """A table with pages for all tokens, those that are found taken over; how many tokens."""
    table = BlockTable()
    taken = blocks.take_prefix(table, tokens, salt, len(tokens))
    blocks.prepare(table, taken, len(tokens))
    return table, taken


def cache(blocks: BlockTableManager, tokens, salt: str = "") -> list[int]:
    """Run tokens and leave them in the cache; the pages."""
    table, _ = start(blocks, tokens, salt)
    blocks.cache_full_pages(table, tokens, len(tokens), salt)
    pages = list(table.pages)
    blocks.release(table)
    return pages


def found(blocks: BlockTableManager, tokens, salt: str = "") -> int:
    """Tokens that are found now; nothing is changed but who was used last."""
    table = BlockTable()
    taken = blocks.take_prefix(table, tokens, salt, len(tokens))
    blocks.release(table)
    return taken


def num_kept(blocks: BlockTableManager) -> int:
    """The longest of all that the cache and its policy keep."""
    assert blocks.prefix is not None
    parts = [*vars(blocks.prefix).values(), *vars(blocks.prefix._policy).values()]
    after = [len(entry.after) for entry in blocks.prefix._by_page.values()]
    return max(sum(after), *(len(part) for part in parts if hasattr(part, "__len__")))


class TestHits:
    def test_the_longest_common_run_of_full_pages(self):
        blocks = manager()
        cache(blocks, [1, 2, 3, 4, 5])
        for tokens, hits in (
            ([1, 2, 3, 4, 5, 6], 4),
            ([1, 2, 3, 4], 4),
            ([1, 2, 3], 2),
            ([1, 2, 9, 4], 2),
            ([9, 2, 3, 4], 0),
            ([3, 4], 0),
            ([1], 0),
        ):
            assert found(blocks, tokens) == hits

    def test_the_pages_are_those_that_were_cached(self):
        blocks = manager()
        pages = cache(blocks, [1, 2, 3, 4])
        table, taken = start(blocks, [1, 2, 3, 4, 5, 6])
        assert (taken, table.pages[:2]) == (4, pages)
        assert blocks.pool.holders(pages[0]) == 1

    def test_at_most_as_many_tokens_as_allowed(self):
        blocks = manager()
        cache(blocks, [1, 2, 3, 4, 5, 6])
        for limit, taken in ((6, 6), (5, 4), (4, 4), (1, 0), (0, 0)):
            table = BlockTable()
            assert blocks.take_prefix(table, [1, 2, 3, 4, 5, 6], "", limit) == taken
            assert len(table) == taken // PAGE
            blocks.release(table)

    def test_a_page_in_use_is_found_by_others(self):
        blocks = manager()
        table, _ = start(blocks, [1, 2, 3])
        blocks.cache_full_pages(table, [1, 2, 3], 3, "")
        other, taken = start(blocks, [1, 2, 9])
        assert (taken, other.pages[0]) == (2, table.pages[0])
        assert blocks.pool.holders(table.pages[0]) == 2

    def test_under_the_same_salt_only(self):
        blocks = manager()
        cache(blocks, [1, 2, 3, 4], "a")
        assert [found(blocks, [1, 2, 3, 4], salt) for salt in ("a", "b", "")] == [4, 0, 0]

    def test_two_that_computed_the_same_keep_one_of_it(self):
        blocks = manager()
        tables = [BlockTable(), BlockTable()]
        for table in tables:
            blocks.prepare(table, 0, 4)
            blocks.cache_full_pages(table, [1, 2, 3, 4], 4, "")
        first, second = (list(table.pages) for table in tables)
        blocks.release(tables[0])
        blocks.release(tables[1])
        assert len(blocks.prefix) == 2
        assert start(blocks, [1, 2, 3, 4])[0].pages == first != second

    def test_one_that_went_on_behind_anothers_page_is_found_behind_it(self):
        blocks = manager()
        cache(blocks, [1, 2])
        table = BlockTable()
        blocks.prepare(table, 0, 4)
        blocks.cache_full_pages(table, [1, 2, 3, 4], 4, "")
        blocks.release(table)
        assert found(blocks, [1, 2, 3, 4]) == 4

    def test_a_fork_that_goes_another_way_within_a_page_is_found_by_its_own_tokens(self):
        """Its parent's page was not the cached one, so nothing was copied."""
        blocks = manager()
        cache(blocks, [1, 2])
        parent = BlockTable()
        blocks.prepare(parent, 0, 2)
        blocks.cache_full_pages(parent, [1, 2], 2, "")
        fork = blocks.fork(parent, 1)
        blocks.release(parent)
        assert blocks.prepare(fork, 1, 4) == ()
        blocks.cache_full_pages(fork, [1, 9, 3, 4], 4, "")
        assert [found(blocks, tokens) for tokens in ([1, 2, 3, 4], [1, 9, 3, 4])] == [2, 4]

    def test_a_table_that_was_released_offers_its_pages_anew(self):
        blocks = manager()
        table, _ = start(blocks, [1, 2, 3, 4])
        blocks.cache_full_pages(table, [1, 2, 3, 4], 4, "")
        blocks.release(table)
        blocks.clear_prefixes()
        blocks.prepare(table, 0, 4)
        blocks.cache_full_pages(table, [1, 2, 3, 4], 4, "")
        assert found(blocks, [1, 2, 3, 4]) == 4

    def test_without_caching_nothing_is_found(self):
        blocks = BlockTableManager(KVCacheConfig(9, PAGE, DataType.FLOAT32))
        assert not blocks.caches_prefixes
        table = BlockTable()
        blocks.prepare(table, 0, 4)
        blocks.cache_full_pages(table, [1, 2, 3, 4], 4, "")
        blocks.release(table)
        assert found(blocks, [1, 2, 3, 4]) == 0
        blocks.clear_prefixes()


class TestHash:
    def test_it_is_sha256_over_the_one_before_and_the_tokens(self):
        before = root_digest("")
        tokens = array("i", [7, 100_000]).tobytes()
        assert hash_page(before, (7, 100_000)) == hashlib.sha256(before + tokens).digest()

    def test_salts_are_any_text(self):
        digests = {root_digest(salt) for salt in ("", "a", "é", "\ud800", "\udc80", "\x00")}
        assert len(digests) == 6

    def test_one_that_always_collides_gives_no_wrong_page(self):
        blocks = manager(hasher=constant)
        cache(blocks, [1, 2, 3, 4])
        assert found(blocks, [1, 2, 3, 4]) == 2
        assert found(blocks, [3, 4, 1, 2]) == 0
        assert found(blocks, [1, 2], "salt") == 0
        cache(blocks, [5, 6])
        assert found(blocks, [5, 6]) == 0
        assert found(blocks, [1, 2]) == 2

    @settings(max_examples=150, deadline=None)
    @given(data=st.data(), hasher=st.sampled_from([hash_page, constant, lambda b, t: b[-1:]]))
    def test_what_is_found_is_what_was_written(self, data, hasher):
        """Pages' contents, kept beside the tables, always are the tokens that led to the hit."""
        eviction = data.draw(st.sampled_from(EVICTIONS))
        blocks = manager(num_pages=6, eviction=eviction, hasher=hasher)
        content: dict[int, tuple] = {}
        prompts = st.lists(st.integers(0, 1), min_size=1, max_size=10)
        for _ in range(data.draw(st.integers(1, 12))):
            tokens, salt = data.draw(prompts), data.draw(st.sampled_from("ab"))
            table, taken = start(blocks, tokens, salt)
            for i, page in enumerate(table.pages):
                expected = (salt, *tokens[: (i + 1) * PAGE])
                if i < taken // PAGE:
                    assert content[page] == expected
                content[page] = expected
            blocks.cache_full_pages(table, tokens, len(tokens), salt)
            blocks.release(table)
            assert blocks.num_free == 5


class TestForgetting:
    def test_a_page_handed_out_again_is_found_no_more(self):
        blocks = manager(num_pages=4)
        cache(blocks, [1, 2, 3, 4])
        table = BlockTable()
        blocks.prepare(table, 0, 6)
        assert found(blocks, [1, 2, 3, 4]) == 0
        blocks.release(table)
        assert found(blocks, [1, 2, 3, 4]) == 0
        assert blocks.num_free == 3

    def test_pages_that_nobody_knows_go_first(self):
        blocks = manager(num_pages=5)
        cache(blocks, [1, 2, 3, 4])
        start(blocks, [7, 7, 8, 8])
        assert found(blocks, [1, 2, 3, 4]) == 4

    def test_the_end_of_a_prefix_goes_before_its_beginning(self):
        blocks = manager(num_pages=5)
        cache(blocks, [1, 2, 3, 4, 5, 6])
        start(blocks, [7, 7, 8, 8])
        assert found(blocks, [1, 2, 3, 4, 5, 6]) == 4

    def test_evicting_a_page_forgets_all_behind_it(self):
        """Even those in use: without the page before them nobody could find them."""
        blocks = manager(num_pages=6)
        cache(blocks, [1, 2])
        table = BlockTable()
        blocks.prepare(table, 0, 4)
        blocks.cache_full_pages(table, [1, 2, 3, 4], 4, "")
        tail = table.pages[1]
        assert tail in blocks.prefix
        other = BlockTable()
        blocks.prepare(other, 0, blocks.num_free * PAGE)
        assert len(blocks.prefix) == 0
        assert blocks.pool.holders(tail) == 1
        blocks.release(table)
        blocks.release(other)
        assert found(blocks, [1, 2, 3, 4]) == 0
        assert (blocks.num_free, blocks.prefix.num_evicted) == (5, 2)

    def test_what_comes_behind_a_forgotten_page_is_not_kept(self):
        blocks = manager()
        table, _ = start(blocks, [1, 2, 3, 4])
        blocks.cache_full_pages(table, [1, 2, 3, 4], 2, "")
        blocks.clear_prefixes()
        blocks.cache_full_pages(table, [1, 2, 3, 4], 4, "")
        assert len(blocks.prefix) == 0
        blocks.release(table)
        assert blocks.num_free == blocks.num_total

    def test_clearing_leaves_tables_alone_and_frees_the_rest(self):
        blocks = manager()
        cache(blocks, [1, 2, 3, 4])
        table, _ = start(blocks, [1, 2, 5, 6])
        blocks.cache_full_pages(table, [1, 2, 5, 6], 4, "")
        pages = list(table.pages)
        blocks.clear_prefixes()
        assert (table.pages, len(blocks.prefix), blocks.num_free) == (pages, 0, 6)
        assert found(blocks, [1, 2, 3, 4]) == 0
        blocks.release(table)
        assert sorted(blocks.pool.allocate(8)) == list(range(1, 9))

    def test_a_page_that_forks_share_under_two_salts_has_one_entry(self):
        """It would be handed out again with its other entry still there."""
        blocks = manager(num_pages=4)
        table = BlockTable()
        blocks.prepare(table, 0, 2)
        fork = blocks.fork(table, 2)
        blocks.cache_full_pages(table, [1, 2], 2, "a")
        blocks.cache_full_pages(fork, [1, 2], 2, "b")
        blocks.release(table)
        blocks.release(fork)
        assert [found(blocks, [1, 2], salt) for salt in "ab"] == [2, 0]
        cache(blocks, [5, 6, 7, 8, 9, 9], "b")
        assert [found(blocks, [1, 2], salt) for salt in "ab"] == [0, 0]
        assert found(blocks, [5, 6, 7, 8, 9, 9], "b") == 6


class TestBounds:
    @pytest.mark.usefixtures("no_array_checks")
    @pytest.mark.parametrize("eviction", EVICTIONS)
    def test_distinct_prompts_keep_no_more_than_the_pool_has_pages(self, eviction):
        """100,000 prompts of two pages each, under a hash that is cheap."""
        blocks = manager(eviction=eviction, hasher=lambda before, tokens: b"%d" % tokens[0])
        for i in range(100_000):
            cache(blocks, (2 * i, 0, 2 * i + 1, 0))
        assert num_kept(blocks) <= 40
        assert len(blocks.prefix) == 8
        assert blocks.num_free == 8

    @pytest.mark.parametrize("eviction", EVICTIONS)
    def test_a_prompt_that_is_always_found_keeps_nothing_more(self, eviction):
        blocks = manager(eviction=eviction)
        for _ in range(1000):
            cache(blocks, [1, 2, 3, 4])
        assert num_kept(blocks) <= 40
        assert blocks.prefix.num_evicted == 0

    @pytest.mark.parametrize("eviction", EVICTIONS)
    def test_nor_does_a_cache_that_is_cleared_over_and_over(self, eviction):
        blocks = manager(eviction=eviction)
        for _ in range(1000):
            cache(blocks, [1, 2, 3, 4])
            blocks.clear_prefixes()
        assert num_kept(blocks) <= 40

    def test_the_text_of_a_page_is_short_however_many_come_before_it(self):
        cache = PrefixCache(make_eviction("lru"))
        entry = None
        for page in range(1, 2000):
            entry = cache.insert(page, b"%d" % page, (page,), entry, "")
        assert len(repr(entry)) < 200
