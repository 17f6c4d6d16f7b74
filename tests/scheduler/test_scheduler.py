"""What a step holds: whose tokens, how many, on which slots and pages."""

import pytest

from ferrum_jax.interfaces import Scheduler
from ferrum_jax.scheduler import FCFSPolicy
from ferrum_jax.types import RequestState, ResourceExhausted, SchedulerError
from tests.scheduler.helpers import Bench, engine, hold, lengths


def owned_pages(bench: Bench) -> int:
    return sum(len(sequence.blocks) for sequence in bench.sequences)


def test_it_is_a_scheduler():
    scheduler: Scheduler = Bench(engine(), num_pages=9).scheduler
    assert not scheduler.has_work
    assert scheduler.schedule().chunks == ()


class TestChunks:
    def test_a_long_prompt_is_cut_and_its_last_chunk_samples(self):
        bench = Bench(engine(), num_pages=20)
        sequence = bench.add(19, 3)
        assert lengths(bench.step()) == [(0, 0, 8, False)]
        assert lengths(bench.step()) == [(0, 8, 8, False)]
        assert lengths(bench.step()) == [(0, 16, 3, True)]
        assert (sequence.num_scheduled, sequence.num_pending) == (19, 1)

    def test_the_next_token_is_scheduled_before_the_host_knows_it(self):
        bench = Bench(engine(), num_pages=20)
        sequence = bench.add(4, 3)
        bench.step()
        assert (len(sequence.token_ids), sequence.num_tokens) == (4, 5)
        assert lengths(bench.step()) == [(0, 4, 1, True)]
        assert (len(sequence.token_ids), sequence.num_pending) == (5, 1)

    def test_decodes_and_prefill_share_the_budget_and_decodes_go_first(self):
        bench = Bench(engine(), num_pages=20)
        bench.add(3)
        bench.add(2)
        bench.step()
        bench.add(20)
        schedule = bench.step()
        assert lengths(schedule) == [(0, 3, 1, True), (1, 2, 1, True), (2, 0, 6, False)]
        assert schedule.num_tokens == bench.engine.max_num_batched_tokens

    def test_a_step_has_at_most_as_many_rows_as_slots(self):
        bench = Bench(engine(), num_pages=20)
        for _ in range(6):
            bench.add(1)
        schedule = bench.step()
        assert sorted(s.slot for s in schedule.admitted if s.slot is not None) == [0, 1, 2, 3]
        assert len(schedule.chunks) == 4
        assert len(bench.scheduler.waiting) == 2

    def test_the_last_token_is_not_run_through_the_model(self):
        bench = Bench(engine(), num_pages=20)
        sequence = bench.add(4, 1)
        bench.step()
        assert bench.step().chunks == ()
        assert sequence.finished
        assert sequence.token_ids == bench.expected(sequence)

    def test_scoring_runs_every_token_and_samples_none(self):
        bench = Bench(engine(), num_pages=4)
        sequence = bench.add(12, score_only=True)
        assert lengths(bench.step()) == [(0, 0, 8, False)]
        assert lengths(bench.step()) == [(0, 8, 4, False)]
        assert bench.step().chunks == ()
        assert sequence.finished
        assert len(sequence.token_ids) == 12

    @pytest.mark.parametrize("run_ahead", [True, False])
    def test_tokens_are_those_of_their_positions(self, run_ahead):
        bench = Bench(engine(run_ahead=run_ahead), num_pages=12)
        for prompt_len in (3, 17, 9, 1, 5):
            bench.add(prompt_len, 9)
        bench.run()
        bench.check_all_ended()


class TestWithoutChunkedPrefill:
    def test_a_prompt_waits_until_the_budget_holds_it_whole(self):
        bench = Bench(engine(chunked_prefill=False), num_pages=20)
        for prompt_len in (5, 4, 1):
            bench.add(prompt_len, 2)
        assert lengths(bench.step()) == [(0, 0, 5, True)]
        assert lengths(bench.step()) == [(0, 5, 1, True), (1, 0, 4, True), (2, 0, 1, True)]
        bench.run()

    def test_a_resumed_sequence_longer_than_a_step_is_cut_after_all(self):
        bench = Bench(engine(chunked_prefill=False, run_ahead=False), num_pages=20)
        sequence = bench.add(8, 6)
        for _ in range(3):
            bench.step()
        bench.scheduler.preempt(sequence)
        assert lengths(bench.step()) == [(0, 0, 8, False)]
        assert lengths(bench.step()) == [(0, 8, 3, True)]
        bench.run()
        assert len(sequence.token_ids) == 14


class TestAdmission:
    def test_it_is_in_order_of_arrival_and_nobody_overtakes(self):
        bench = Bench(engine(), num_pages=7)
        bench.add(8, 8)
        bench.step()
        large, small = bench.add(20, 2), bench.add(1, 2)
        assert large.request.arrival < small.request.arrival
        bench.step()
        assert bench.scheduler.waiting == (large, small)
        bench.run()

    def test_a_prompt_waits_for_the_pages_of_all_its_tokens(self):
        """Not of its first chunk alone: it would start, run dry and start over."""
        bench = Bench(engine(), num_pages=8)
        bench.add(8, 8)
        bench.step()
        waiting = bench.add(24, 1)
        for _ in bench.steps_until_finished(bench.sequences[0]):
            assert waiting.state is RequestState.WAITING
        bench.run()
        assert waiting.num_preemptions == 0

    def test_a_slot_is_free_again_when_its_sequence_ends(self):
        bench = Bench(engine(max_num_seqs=1), num_pages=20)
        first, second = bench.add(2, 2), bench.add(2, 2)
        bench.run()
        assert first.slot is None
        assert second.slot is None
        assert bench.scheduler.running == bench.scheduler.waiting == ()

    def test_a_sequence_is_added_once(self):
        bench = Bench(engine(), num_pages=20)
        sequence = bench.add(2)
        for _ in range(2):
            with pytest.raises(SchedulerError, match="added once"):
                bench.scheduler.add(sequence)
            bench.step()
        bench.scheduler.finish(sequence)
        with pytest.raises(SchedulerError, match="finished"):
            bench.scheduler.add(sequence)

    def test_as_many_wait_as_max_waiting_lets(self):
        bench = Bench(engine(max_waiting=3), num_pages=20)
        for _ in range(2):
            bench.add(2)
        bench.scheduler.check_queue(1)
        with pytest.raises(
            ResourceExhausted, match=r"2 sequences wait .*\.max_waiting = 3 .*no room for 2 more"
        ):
            bench.scheduler.check_queue(2)
        bench.step()
        bench.scheduler.check_queue(3)
        bench.run()

    def test_any_number_waits_where_no_limit_is_set(self):
        Bench(engine(), num_pages=20).scheduler.check_queue(10**9)

    def test_pages_held_elsewhere_that_leave_no_room_are_an_error_not_a_wait(self):
        bench = Bench(engine(), num_pages=5)
        held = hold(bench, 12)
        sequence = bench.add(5)
        with pytest.raises(ResourceExhausted, match=r"5 tokens cannot start .* 1 of 4 .*forked"):
            bench.scheduler.schedule()
        bench.blocks.release(held)
        bench.run()
        assert len(sequence.token_ids) == 9

    def test_that_error_loses_no_page_on_its_way_to_host_memory(self):
        settings = engine(run_ahead=False, preemption="swap")
        bench = Bench(settings, num_pages=5, num_host_pages=4)
        sequence = bench.add(7, 6)
        bench.step()
        bench.scheduler.preempt(sequence)
        held = hold(bench, 12)
        # The device reads the pages of a swapped sequence first: these were not written since.
        with pytest.raises(ResourceExhausted, match="8 tokens cannot start"):
            bench.step()
        bench.blocks.release(held)
        schedule = bench.step()
        assert [s for s, _ in schedule.swapped_out] == [sequence]
        bench.run()
        bench.check_all_ended()


class TestPreemption:
    @pytest.mark.parametrize("run_ahead", [True, False])
    def test_two_that_together_exceed_the_pages_both_end_the_older_first(self, run_ahead):
        bench = Bench(engine(run_ahead=run_ahead), num_pages=9)
        older, younger = bench.add(12, 16), bench.add(12, 16)
        for _ in bench.steps_until_finished(older):
            assert not younger.finished
        bench.run()
        assert older.num_preemptions == 0
        assert younger.num_preemptions > 0
        bench.check_all_ended()

    @pytest.mark.parametrize("run_ahead", [True, False])
    def test_two_long_prompts_that_together_exceed_the_pages_both_end(self, run_ahead):
        bench = Bench(engine(run_ahead=run_ahead), num_pages=11)
        older, younger = bench.add(24, 8), bench.add(24, 8)
        for _ in bench.steps_until_finished(older):
            assert not younger.finished
        bench.run()
        bench.check_all_ended()
        assert older.num_preemptions == 0

    def test_the_victim_loses_all_and_waits_without_being_scheduled(self):
        bench = Bench(engine(), num_pages=5)
        older, younger = bench.add(7, 9), bench.add(4, 9)
        schedule = bench.step_until_preempted()
        assert schedule.preempted == (younger,)
        assert schedule.admitted == ()
        assert [chunk.sequence for chunk in schedule.chunks] == [older]
        assert younger.state is RequestState.PREEMPTED
        assert (younger.slot, len(younger.blocks), younger.num_scheduled) == (None, 0, 0)
        assert bench.scheduler.waiting == (younger,)

    def test_a_victim_with_a_token_on_its_way_waits_until_it_has_arrived(self):
        bench = Bench(engine(), num_pages=20)
        sequence, behind = bench.add(4, 9), bench.add(4, 9)
        bench.step()
        bench.scheduler.preempt(sequence)
        assert sequence.num_pending == 1
        bench.scheduler.preempt(behind)
        assert bench.step().chunks == ()
        assert sequence.num_pending == 0
        assert lengths(bench.step()) == [(0, 0, 5, True), (1, 0, 3, False)]

    def test_a_victim_already_in_the_step_is_taken_out_of_it(self):
        """The one that needs a page arrived first but was added last."""
        bench = Bench(engine(run_ahead=False), num_pages=6)
        young = bench.add(6, 10, arrival=9.0)
        bench.step()
        old = bench.add(7, 10, arrival=1.0)
        schedule = bench.step_until_preempted()
        assert schedule.preempted == (young,)
        assert [chunk.sequence for chunk in schedule.chunks] == [old]
        assert (young.num_pending, young.num_scheduled) == (0, 0)
        bench.run()
        bench.check_all_ended()

    def test_the_tokens_of_a_withdrawn_chunk_go_to_others(self):
        bench = Bench(engine(run_ahead=False), num_pages=9)
        young = bench.add(7, 8, arrival=9.0)
        bench.step()
        bench.add(3, 8, arrival=1.0)
        bench.add(20, 8, arrival=2.0)
        assert lengths(bench.step()) == [(0, 7, 1, True), (1, 0, 3, True), (2, 0, 4, False)]
        assert lengths(bench.step()) == [(0, 8, 1, True), (1, 3, 1, True), (2, 4, 6, False)]
        hold(bench, 4)
        schedule = bench.step()
        assert schedule.preempted == (young,)
        assert lengths(schedule) == [(1, 4, 1, True), (2, 10, 7, False)]

    def test_nobody_is_admitted_in_a_step_that_preempts(self):
        """Under a policy that would let a newcomer have the victim's pages."""

        class NewestFirst(FCFSPolicy):
            """The victim is still the youngest: who runs has another rank than who waits."""

            def rank(self, sequence):
                arrival, running = sequence.request.arrival, sequence.slot is not None
                return (arrival if running else -arrival,)

        bench = Bench(engine(run_ahead=False), num_pages=6, policy=NewestFirst())
        older = bench.add(3, 8)
        bench.step()
        younger = bench.add(7, 8)
        bench.step()
        hold(bench, bench.blocks.num_free * bench.blocks.page_size)
        newcomer = bench.add(1, 2)
        schedule = bench.step()
        assert schedule.preempted == (younger,)
        assert [chunk.sequence for chunk in schedule.chunks] == [older]
        assert bench.blocks.num_free > 0
        assert bench.step().admitted == (newcomer,)

    def test_the_resumed_go_before_those_that_never_ran(self):
        bench = Bench(engine(run_ahead=False), num_pages=20)
        fresh_but_earlier = bench.make(2, arrival=0.0)
        sequence = bench.add(4, 9, arrival=1.0)
        bench.step()
        bench.scheduler.preempt(sequence)
        bench.scheduler.add(fresh_but_earlier)
        assert bench.step().admitted == (sequence, fresh_but_earlier)
        bench.run()

    def test_only_a_running_sequence_is_preempted(self):
        bench = Bench(engine(), num_pages=20)
        sequence = bench.add(4)
        with pytest.raises(SchedulerError, match="waiting"):
            bench.scheduler.preempt(sequence)
        bench.run()
        with pytest.raises(SchedulerError, match="finished"):
            bench.scheduler.preempt(sequence)


class TestFinish:
    @pytest.mark.parametrize("when", ["never added", "waiting", "prefill", "decode", "preempted"])
    def test_in_any_state_and_twice_it_frees_all(self, when):
        bench = Bench(engine(), num_pages=20)
        sequence = bench.make(12, 6)
        steps = {"prefill": 1, "decode": 3, "preempted": 3}.get(when, 0)
        if when != "never added":
            bench.scheduler.add(sequence)
        for _ in range(steps):
            bench.step()
        if when == "preempted":
            bench.scheduler.preempt(sequence)
        for _ in range(2):
            bench.scheduler.finish(sequence)
            assert sequence.finished
            assert not bench.scheduler.has_work
            assert bench.blocks.num_free == bench.blocks.num_total
        bench.run()
        bench.scheduler.finish(sequence)
        assert sequence.num_pending == 0
        assert sequence.slot is None

    def test_the_slot_of_one_that_ended_twice_is_given_out_once(self):
        bench = Bench(engine(), num_pages=20)
        first, _ = bench.add(1, 9), bench.add(1, 9)
        bench.step()
        bench.scheduler.finish(first)
        bench.scheduler.finish(first)
        for _ in range(5):
            bench.add(1, 9)
        bench.step()
        slots = [sequence.slot for sequence in bench.scheduler.running]
        assert sorted(slot for slot in slots if slot is not None) == [0, 1, 2, 3]

    def test_others_get_the_pages_at_once(self):
        bench = Bench(engine(), num_pages=4)
        first, second = bench.add(9, 3), bench.add(9, 3)
        bench.step()
        bench.scheduler.finish(first)
        assert bench.step().admitted == (second,)
        assert owned_pages(bench) == len(second.blocks)
        bench.run()
