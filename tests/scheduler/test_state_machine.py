"""Any order of adds, steps, aborts, preemptions, forks and resets keeps the accounts right."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ferrum_jax.scheduler import check_fits
from ferrum_jax.types import (
    TRASH_PAGE,
    BlockTable,
    RequestError,
    RequestState,
    ResourceExhausted,
    Sequence,
)
from tests.scheduler.helpers import MAX_MODEL_LEN, Bench, engine, token_at


class SchedulerMachine(RuleBasedStateMachine):
    """The bench checks that keys lie where they are read and that tokens arrive in turn."""

    bench: Bench

    def __init__(self):
        super().__init__()
        self.forks: list[BlockTable] = []
        self.aborted: set[Sequence] = set()

    @initialize(
        num_pages=st.integers(2, 14),
        page_size=st.integers(1, 5),
        max_num_seqs=st.integers(1, 4),
        spare_budget=st.integers(0, 8),
        chunked_prefill=st.booleans(),
        run_ahead=st.booleans(),
    )
    def make(self, num_pages, page_size, max_num_seqs, spare_budget, chunked_prefill, run_ahead):
        settings = engine(
            page_size=page_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_seqs + spare_budget,
            chunked_prefill=chunked_prefill,
            run_ahead=run_ahead,
        )
        self.bench = Bench(settings, num_pages)

    @rule(
        prompt_len=st.integers(1, 24),
        max_tokens=st.integers(1, 20),
        score_only=st.booleans(),
        early=st.booleans(),
    )
    def add(self, prompt_len, max_tokens, score_only, early):
        blocks = self.bench.blocks
        try:
            check_fits(prompt_len, self.bench.engine, blocks)
        except ResourceExhausted:
            assert prompt_len > blocks.num_total * blocks.page_size
        except RequestError:
            assert not self.bench.engine.chunked_prefill
        else:
            arrival = -1.0 - len(self.bench.sequences) if early else None
            self.bench.add(prompt_len, max_tokens, score_only=score_only, arrival=arrival)

    @rule()
    def step(self):
        landed = self.bench.in_flight is None or not self.bench.in_flight.chunks
        must_move = landed and self.bench.scheduler.has_work
        try:
            schedule = self.bench.step()
        except ResourceExhausted:
            assert self.forks, "only pages held elsewhere may leave the scheduler stuck"
            return
        if must_move:
            assert schedule.chunks or schedule.preempted
        assert schedule.num_tokens <= self.bench.engine.max_num_batched_tokens
        scheduled = [chunk.sequence for chunk in schedule.chunks]
        assert len(set(scheduled)) == len(scheduled) <= self.bench.engine.max_num_seqs
        assert not set(scheduled) & set(schedule.preempted)
        assert set(schedule.admitted) <= set(scheduled)
        assert not (schedule.admitted and schedule.preempted)

    @precondition(lambda self: self.bench.sequences)
    @rule(data=st.data())
    def abort(self, data):
        """In any state, the ended ones among them."""
        sequence = data.draw(st.sampled_from(self.bench.sequences))
        if not sequence.finished:
            self.aborted.add(sequence)
        self.bench.scheduler.finish(sequence)

    @precondition(lambda self: self.bench.scheduler.running)
    @rule(data=st.data())
    def preempt(self, data):
        self.bench.scheduler.preempt(data.draw(st.sampled_from(self.bench.scheduler.running)))

    @precondition(lambda self: self.bench.scheduler.running)
    @rule(data=st.data())
    def fork(self, data):
        """A snapshot of somebody's pages, held outside the scheduler."""
        source = data.draw(st.sampled_from(self.bench.scheduler.running))
        self.forks.append(self.bench.blocks.fork(source.blocks))

    @precondition(lambda self: self.forks)
    @rule(data=st.data())
    def drop_fork(self, data):
        index = data.draw(st.integers(0, len(self.forks) - 1))
        self.bench.blocks.release(self.forks.pop(index))

    @rule()
    def reset(self):
        self.aborted.update(s for s in self.bench.sequences if not s.finished)
        for sequence in self.bench.sequences:
            self.bench.scheduler.finish(sequence)
        assert not self.bench.scheduler.has_work

    @invariant()
    def pages_add_up(self):
        blocks = self.bench.blocks
        tables = [sequence.blocks for sequence in self.bench.sequences] + self.forks
        holders = Counter(page for table in tables for page in table.pages)
        assert holders[TRASH_PAGE] == 0
        assert blocks.num_free == blocks.num_total - len(+holders)
        for page in range(blocks.num_total + 1):
            assert blocks.pool.holders(page) == holders[page]

    @invariant()
    def states_and_slots_agree(self):
        scheduler = self.bench.scheduler
        slots = [sequence.slot for sequence in scheduler.running]
        assert len(set(slots)) == len(slots)
        assert set(slots) <= set(range(self.bench.engine.max_num_seqs))
        for sequence in self.bench.sequences:
            running = sequence.state is RequestState.RUNNING
            assert (sequence in scheduler.running) == running
            queued = sequence.state in (RequestState.WAITING, RequestState.PREEMPTED)
            assert (sequence in scheduler.waiting) == queued
            if not running:
                assert (sequence.slot, sequence.blocks.pages) == (None, [])
            assert len(sequence.blocks) >= running * self.bench.blocks.pages_for(
                sequence.num_scheduled
            )
            assert 0 <= sequence.num_pending <= 2
            assert sequence.num_tokens <= sequence.max_len <= MAX_MODEL_LEN

    def teardown(self):
        """Left alone, everything ends, each with its own tokens, and every page is free."""
        if not hasattr(self, "bench"):
            return
        while self.forks:
            self.bench.blocks.release(self.forks.pop())
        # One at a time, each token in a step of its own and every step followed by an empty one.
        self.bench.run(limit=10 + 4 * sum(s.max_len for s in self.bench.sequences))
        assert self.bench.blocks.num_free == self.bench.blocks.num_total
        for sequence in self.bench.sequences:
            first, end = sequence.prompt_len, len(sequence.token_ids)
            request_id = sequence.request.request_id
            assert sequence.token_ids[first:] == [
                token_at(request_id, 0, position) for position in range(first, end)
            ]
            assert sequence in self.aborted or end == sequence.max_len


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestSchedulerMachine = SchedulerMachine.TestCase
