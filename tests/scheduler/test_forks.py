"""Forks, snapshots and rewinds share pages, and give them back when others need them."""

import pytest

from ferrum_jax.types import RequestState, SchedulerError, Sequence
from tests.scheduler.helpers import Bench, engine, hold, lengths


def bench(num_pages: int = 30, *, num_host_pages: int = 0, **settings) -> Bench:
    options = {"run_ahead": False, **settings}
    return Bench(engine(**options), num_pages=num_pages, num_host_pages=num_host_pages)


def decoding(b: Bench, prompt_len: int = 7, tokens: int = 10, **options) -> Sequence:
    """A sequence that has run up to so many tokens, with more to come."""
    sequence = b.add(prompt_len, 20, **options)
    while len(sequence.token_ids) < tokens:
        b.step()
    return sequence


class TestFork:
    @pytest.mark.parametrize("run_ahead", [True, False])
    def test_a_twin_with_the_same_seed_writes_the_same_tokens(self, run_ahead):
        b = bench(run_ahead=run_ahead)
        parent = decoding(b)
        twin, other = b.fork(parent, seed=parent.seed), b.fork(parent, seed=99)
        b.run()
        b.check_all_ended()
        assert parent.token_ids == twin.token_ids != other.token_ids
        assert parent.token_ids[:10] == other.token_ids[:10]

    def test_it_computes_the_last_token_and_copies_the_last_page(self):
        b = bench()
        parent = decoding(b)
        free = b.blocks.num_free
        twin = b.fork(parent)
        assert b.blocks.num_free == free
        schedule = b.step()
        assert lengths(schedule) == [(0, 9, 1, True), (1, 9, 1, True)]
        assert [(s, len(twin.blocks)) for s, _, _ in schedule.copies] == [(parent, 3)]
        assert parent.blocks.pages[:2] == twin.blocks.pages[:2]
        assert parent.blocks.pages[2] != twin.blocks.pages[2]
        assert b.blocks.num_free == free - 1
        assert (twin.num_cached, b.device.num_copied) == (9, 1)
        b.run()
        b.check_all_ended()

    def test_at_the_end_of_a_page_nothing_is_copied(self):
        b = bench()
        twin = b.fork(decoding(b, tokens=9))
        b.run()
        assert (twin.num_cached, b.device.num_copied) == (8, 0)
        b.check_all_ended()

    def test_the_completions_of_one_request_compute_its_prompt_once(self):
        b = bench(run_ahead=True, max_num_seqs=8)
        leader = b.add(11, 6)
        while leader.num_scheduled < leader.prompt_len:
            b.step()
        followers = [b.follow(leader, index) for index in range(1, 5)]
        b.run()
        b.check_all_ended()
        assert b.device.num_computed == 11 + 4 * 1 + 5 * 5
        assert len({tuple(s.token_ids) for s in [leader, *followers]}) == 5

    def test_a_twin_of_one_in_host_memory_computes_anew(self):
        b = bench(preemption="swap", num_host_pages=9)
        parent = decoding(b)
        b.scheduler.preempt(parent)
        twin = b.fork(parent)
        assert (parent.swapped, twin.num_cached) == (True, 0)
        b.run()
        b.check_all_ended()

    def test_at_most_all_but_the_last_token_is_taken_over(self):
        b = bench()
        parent = decoding(b)
        twin = b.make(7, 20, tokens=parent.token_ids)
        with pytest.raises(SchedulerError, match=r"a fork of 10 tokens .* not 10"):
            b.scheduler.fork(parent.blocks, 10, twin)

    @pytest.mark.parametrize("why", ["cannot end", "queued already"])
    def test_one_that_is_refused_holds_no_page(self, why):
        b = bench()
        parent = decoding(b)
        twin = b.make(7, 20, tokens=parent.token_ids)
        if why == "cannot end":
            twin.max_len = 1000
        else:
            b.scheduler.add(twin)
        with pytest.raises(SchedulerError):
            b.scheduler.fork(parent.blocks, 9, twin)
        b.scheduler.finish(parent)
        assert b.blocks.num_free == b.blocks.num_total


class TestSnapshot:
    def test_it_is_resumed_any_number_of_times_after_its_sequence_is_gone(self):
        b = bench()
        parent = decoding(b)
        snapshot = b.snapshot(parent)
        b.run()
        before = b.device.num_computed
        for seed in range(3):
            resumed = b.resume(snapshot, 5, seed=seed)
            b.run()
            assert resumed.num_cached == 9
        assert b.device.num_computed == before + 3 * 5
        b.scheduler.drop(snapshot)
        b.check_all_ended()

    def test_dropping_it_gives_its_pages_back_once(self):
        b = bench()
        snapshot = b.snapshot(decoding(b))
        b.run()
        assert b.blocks.num_free == b.blocks.num_total - 3
        for _ in range(2):
            b.scheduler.drop(snapshot)
            assert b.blocks.num_free == b.blocks.num_total

    def test_without_pages_it_is_computed_anew(self):
        b = bench()
        snapshot = b.snapshot(decoding(b))
        b.run()
        b.scheduler.drop(snapshot)
        resumed = b.resume(snapshot)
        b.run()
        assert resumed.num_cached == 0
        b.check_all_ended()

    def test_one_of_a_sequence_without_pages_holds_none(self):
        b = bench()
        sequence = decoding(b)
        b.scheduler.preempt(sequence)
        assert b.snapshot(sequence).num_scheduled == 0
        b.run()
        b.check_all_ended()


class TestRewind:
    @pytest.mark.parametrize("prefix_caching", [True, False])
    @pytest.mark.parametrize("run_ahead", [True, False])
    @pytest.mark.parametrize("length", [7, 8, 9, 12, 14])
    def test_the_same_tokens_come_again(self, length, run_ahead, prefix_caching):
        b = bench(run_ahead=run_ahead, prefix_caching=prefix_caching)
        sequence = decoding(b, tokens=14)
        before = list(sequence.token_ids)
        b.rewind(sequence, length)
        assert (len(sequence.token_ids), sequence.num_scheduled) == (length, length - 1)
        b.run()
        assert sequence.token_ids[:14] == before
        b.check_all_ended()

    @pytest.mark.parametrize("length", [7, 8, 9, 12])
    def test_other_tokens_do_not_overwrite_those_that_are_cached(self, length):
        b = bench(prefix_caching=True)
        sequence = decoding(b, tokens=14)
        before = list(sequence.token_ids)
        b.rewind(sequence, length, seed=77)
        b.run()
        again = b.add(before, 4)
        b.run()
        assert again.num_cached == 12
        b.check_all_ended()

    def test_pages_behind_it_are_free(self):
        b = bench()
        sequence = decoding(b, tokens=18)
        free = b.blocks.num_free
        b.rewind(sequence, 7)
        assert b.blocks.num_free == free + 3

    def test_a_snapshot_from_before_keeps_what_it_had(self):
        b = bench()
        sequence = decoding(b, tokens=14)
        snapshot = b.snapshot(sequence)
        b.rewind(sequence, 10, seed=77)
        b.run()
        resumed = b.resume(snapshot)
        b.run()
        assert resumed.num_cached == 13
        b.scheduler.drop(snapshot)
        b.check_all_ended()

    @pytest.mark.parametrize("state", [RequestState.WAITING, RequestState.PREEMPTED])
    def test_one_that_waits_is_rewound_too(self, state):
        b = bench(max_num_seqs=1, prefix_caching=True)
        sequence = decoding(b, tokens=14)
        if state is RequestState.WAITING:
            sequence = b.fork(sequence)
        else:
            b.scheduler.preempt(sequence)
        b.rewind(sequence, 9)
        assert sequence.state is state
        b.run()
        b.check_all_ended()

    @pytest.mark.parametrize(("length", "why"), [(6, "rewound to 6"), (11, "rewound to 11")])
    def test_only_to_a_length_that_it_had_behind_its_prompt(self, length, why):
        b = bench()
        with pytest.raises(SchedulerError, match=f"10 tokens, 7 of them .*{why}"):
            b.rewind(decoding(b), length)

    def test_not_with_a_token_on_its_way_and_not_after_the_end(self):
        b = bench(run_ahead=True)
        sequence = decoding(b)
        with pytest.raises(SchedulerError, match="all tokens read"):
            b.scheduler.rewind(sequence, 8)
        b.run()
        with pytest.raises(SchedulerError, match="has not ended"):
            b.scheduler.rewind(sequence, 8)


class TestPagesThatOthersNeed:
    def test_a_snapshot_gives_them_back_before_anybody_gives_way(self):
        b = bench(num_pages=7)
        sequence = decoding(b, prompt_len=8, tokens=12)
        snapshot = b.snapshot(sequence)
        b.finish(sequence)
        other = b.add(12, 12)
        b.run()
        assert other.num_preemptions == 0
        assert snapshot.num_scheduled == 0
        resumed = b.resume(snapshot)
        b.run()
        assert resumed.token_ids == b.expected(resumed)

    def test_a_fork_that_waits_gives_them_back_and_computes_anew(self):
        b = bench(num_pages=7, max_num_seqs=1)
        parent = decoding(b, tokens=12)
        twin = b.fork(parent)
        assert len(twin.blocks) == 3
        while len(parent.blocks) < 6:
            b.step()
        assert (twin.blocks.pages, twin.num_scheduled) == ([], 0)
        assert parent.num_preemptions == 0
        b.run()
        assert twin.num_cached == 0
        b.check_all_ended()

    @pytest.mark.parametrize("prefix_caching", [True, False])
    def test_snapshots_that_hold_all_pages_stop_nobody(self, prefix_caching):
        b = bench(num_pages=9, prefix_caching=prefix_caching)
        for i in range(4):
            sequence = b.add([i + 1] * 7, 2)
            b.step()
            b.snapshot(sequence)
            b.finish(sequence)
        assert b.blocks.num_free == 0
        sequence = b.add(30, 2)
        b.run()
        assert sequence.token_ids == b.expected(sequence)

    def test_forks_that_hold_all_pages_end_one_after_the_other(self):
        b = bench(num_pages=6)
        parent = decoding(b, prompt_len=12, tokens=16)
        twins = [b.fork(parent) for _ in range(6)]
        b.finish(parent)
        b.run()
        for twin in twins:
            assert twin.token_ids == b.expected(twin)
        assert b.blocks.num_free == b.blocks.num_total

    @pytest.mark.parametrize("chunked_prefill", [True, False])
    def test_a_fork_of_every_page_that_has_to_copy_a_cached_one_ends(self, chunked_prefill):
        """It holds all pages, and the one that it would write to is cached: no page is left for
        the copy. It starts over, and without chunked prefill it is not cut for that."""
        settings = {"prefix_caching": True, "chunked_prefill": chunked_prefill}
        b = bench(num_pages=3, run_ahead=True, **settings)
        leader = b.add(8, 1)
        b.step()
        follower = b.follow(leader, 1)
        b.step()
        assert leader.finished
        assert (b.blocks.num_free, len(follower.blocks)) == (0, 2)
        assert lengths(b.step()) == [(1, 0, 8, True)]
        assert follower.num_cached == 0
        b.run()
        b.check_all_ended()

    def test_rewound_onto_a_cached_page_with_no_page_left_it_starts_over_and_ends(self):
        b = bench(num_pages=4, prefix_caching=True)
        sequence = decoding(b, prompt_len=4, tokens=12)
        b.rewind(sequence, 8)
        b.snapshot(sequence)
        hold(b, 4)
        schedule = b.step()
        assert (schedule.preempted, schedule.chunks) == ((sequence,), ())
        assert lengths(b.step()) == [(0, 4, 4, True)]
