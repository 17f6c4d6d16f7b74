"""Requests that begin alike share pages, and nobody can tell from the tokens."""

import pytest

from ferrum_jax.types import Sequence
from tests.scheduler.helpers import Bench, engine, lengths


def bench(num_pages: int = 40, **options) -> Bench:
    settings = {"prefix_caching": True, "max_num_batched_tokens": 16, "run_ahead": False}
    hasher = {"hasher": options.pop("hasher")} if "hasher" in options else {}
    return Bench(engine(**{**settings, **options}), num_pages=num_pages, **hasher)


def constant(before: bytes, tokens) -> bytes:
    return b"x"


def run(b: Bench, *args, **options) -> Sequence:
    sequence = b.add(*args, **options)
    b.run()
    return sequence


class TestHits:
    def test_the_same_beginning_is_computed_once(self):
        b = bench()
        first, second = run(b, [1] * 10 + [2], 4), run(b, [1] * 10 + [3], 4)
        assert (first.num_cached, second.num_cached) == (0, 8)
        assert b.device.num_computed == 14 + 14 - 8
        b.check_all_ended()

    def test_what_was_generated_is_shared_by_the_next_turn(self):
        b = bench()
        first = run(b, 6, 8)
        second = run(b, [*first.token_ids, 7, 7, 7], 4)
        assert second.num_cached == 12, "the full pages of the 13 tokens that ran"
        b.check_all_ended()

    @pytest.mark.parametrize("prompt_len", [4, 8, 12])
    def test_of_a_prompt_that_is_wholly_cached_a_page_is_computed(self, prompt_len):
        b = bench()
        first = run(b, prompt_len, 6, seed=1)
        second = b.add(prompt_len, 6, seed=1)
        assert lengths(b.step()) == [(1, prompt_len - 4, 4, True)]
        b.run()
        assert second.token_ids == first.token_ids

    def test_two_that_start_in_one_step_share_what_it_computes(self):
        b = bench()
        b.add(9)
        b.add(9)
        assert lengths(b.step()) == [(0, 0, 9, True), (1, 8, 1, True)]
        b.run()
        b.check_all_ended()

    def test_pages_of_one_that_still_runs_are_shared(self):
        b = bench(run_ahead=True)
        b.add(10, 20)
        b.step()
        sharer = b.add(10, 20)
        b.step()
        assert sharer.num_cached == 8
        assert sharer.blocks.pages[:2] == b.sequences[0].blocks.pages[:2]
        b.run()
        b.check_all_ended()

    def test_hits_are_counted_in_tokens_when_a_sequence_starts(self):
        b = bench()
        run(b, 10)
        run(b, 10)
        assert (b.blocks.num_queried, b.blocks.num_hits) == (20, 8)

    def test_whoever_wants_the_prompts_logprobs_computes_all_of_it(self):
        b = bench()
        run(b, 10)
        scored = run(b, 10, score_only=True, prompt_logprobs=0)
        assert scored.num_cached == 0
        assert b.device.num_computed == 13 + 10
        assert run(b, 10).num_cached == 8


class TestWithoutRoom:
    def test_one_that_cannot_start_gives_back_what_it_found(self):
        b = bench(num_pages=9)
        run(b, 8, 1)
        b.add([5] * 16, 8)
        b.step()
        waiting = b.add(20, 4)
        for _ in range(3):
            free, queried = b.blocks.num_free, b.blocks.num_queried
            b.step()
            assert (waiting.num_scheduled, waiting.blocks.pages) == (0, [])
            assert b.blocks.num_free >= free - 1
            assert b.blocks.num_queried == queried
        b.run()
        assert waiting.num_cached in (0, 4, 8)
        b.check_all_ended()

    def test_cached_pages_are_no_reason_to_wait(self):
        b = bench(num_pages=6)
        for i in range(10):
            assert run(b, [i + 1] * 15, 5).num_preemptions == 0
        b.check_all_ended()


@pytest.mark.parametrize("preempted_by", ["caller", "want of pages"])
def test_a_preempted_sequence_that_finds_its_pages_counts_anew(preempted_by):
    b = bench(num_pages=30 if preempted_by == "caller" else 7)
    other, sequence = b.add([9] * 7, 9), b.add(9, 9)
    b.step()
    if preempted_by == "caller":
        b.scheduler.preempt(sequence)
        assert sequence.num_scheduled == 0
        (_, start, length, _) = lengths(b.step())[1]
        assert (start, length) == (8, 2)
    b.run()
    assert sequence.num_preemptions == 1
    assert sequence.num_cached == 0, "those of its first start"
    assert other.num_preemptions == 0
    b.check_all_ended()


def test_a_page_that_was_reused_is_found_no_more():
    b = bench(num_pages=6)
    run(b, 16, 1)
    run(b, [50 - i for i in range(19)], 1)
    assert run(b, 16, 1).num_cached == 0
    b.check_all_ended()


@pytest.mark.parametrize("hasher", [constant, lambda before, tokens: bytes([sum(tokens) % 2])])
def test_a_hash_that_collides_costs_only_hits(hasher):
    prompts = [[1] * 9, [2] * 9, [1] * 4 + [2] * 5, [1] * 9, [2, 1, 1, 1] * 3, [1] * 9]
    b = bench(num_pages=30, hasher=hasher)
    for salt in ("", "other"):
        for prompt in prompts:
            b.add(prompt, 6, salt=salt)
    b.run()
    b.check_all_ended()
    assert b.blocks.num_hits > 0


def test_another_salt_shares_nothing():
    b = bench()
    first = run(b, 10, salt="a")
    assert run(b, 10, salt="b").num_cached == 0
    assert run(b, 10).num_cached == 0
    assert run(b, 10, salt="a").num_cached == 8
    assert first.num_cached == 0
    b.check_all_ended()


def test_clearing_the_cache_forgets_all_and_disturbs_nobody():
    b = bench()
    running = b.add(10, 20)
    b.step()
    b.blocks.clear_prefixes()
    assert run(b, 10).num_cached == 0
    assert running.finished
    b.blocks.clear_prefixes()
    assert run(b, 10).num_cached == 0
    b.check_all_ended()


def test_after_a_step_that_was_broken_off_nothing_stale_is_read():
    b = bench(run_ahead=True)
    for _ in range(3):
        b.add(12, 20)
    b.step()
    b.step()
    b.recover()
    assert b.blocks.num_free == b.blocks.num_total
    again = run(b, 12)
    assert again.num_cached == 0
    assert again.token_ids == b.expected(again)
