"""Any order of adds, steps, aborts, preemptions, forks, rewinds and resets keeps the accounts,
under every policy, with shared prefixes and drafts and without, in pages that are mostly too few.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ferrum_jax.scheduler import check_fits
from ferrum_jax.types import Priority, RequestError, ResourceExhausted, Sequence
from ferrum_jax.types.engine import EVICTIONS, POLICIES, PREEMPTIONS
from tests.scheduler.helpers import Bench, engine
from tests.scheduler.invariants import check_all, check_schedule

PROMPTS = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.integers(1, 9)), min_size=1, max_size=3
).map(lambda runs: [token for token, length in runs for _ in range(length)])
"""Runs of two tokens: many begin alike."""
SEQUENCE = st.fixed_dictionaries(
    {
        "prompt": PROMPTS,
        "max_tokens": st.integers(1, 20),
        "kind": st.sampled_from(["", "", "", "score_only", "prompt_logprobs"]),
        "client": st.sampled_from("ab"),
        "priority": st.sampled_from(Priority),
        "salt": st.sampled_from(["", "", "s"]),
        "early": st.booleans(),
        "single_steps": st.sampled_from([False, False, False, True]),
    }
)
PICK = st.integers(0, 99)
"""Which of those there are."""
STEPS = st.integers(0, 3)
"""Steps after a call. (Hypothesis leaves out some rules in each run: steps must not be one.)"""


class SchedulerMachine(RuleBasedStateMachine):
    """The bench checks that what is read is what was written, and that tokens arrive in turn."""

    bench: Bench

    def __init__(self):
        super().__init__()
        self.aborted: set[Sequence] = set()

    @initialize(
        num_pages=st.integers(2, 14),
        page_size=st.integers(1, 5),
        num_host_pages=st.integers(0, 8),
        max_num_seqs=st.integers(1, 4),
        spare_budget=st.integers(0, 8),
        policy=st.sampled_from(POLICIES),
        eviction=st.sampled_from(EVICTIONS),
        preemption=st.sampled_from(PREEMPTIONS),
        switches=st.tuples(*[st.booleans()] * 3),
        ageing=st.sampled_from([0.01, 5.0, 1e4]),
        quantum=st.integers(1, 6),
        drafts=st.sampled_from([(0, 0), (0, 0), (3, 0), (3, 1), (3, 3), (1, 1)]),
        decode_steps=st.sampled_from([1, 1, 2, 3, 8]),
        sequences=st.lists(SEQUENCE, min_size=1, max_size=4),
    )
    def make(
        self, num_pages, num_host_pages, max_num_seqs, spare_budget, switches, sequences, drafts,
        decode_steps, **options,
    ):  # fmt: skip
        chunked_prefill, run_ahead, prefix_caching = switches
        self.bench = Bench(
            engine(
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_seqs + spare_budget,
                chunked_prefill=chunked_prefill,
                run_ahead=run_ahead,
                prefix_caching=prefix_caching,
                decode_steps=1 if drafts[0] else decode_steps,
                client_weights={"b": 3.0},
                **options,
            ),
            num_pages,
            num_host_pages=num_host_pages if options["preemption"] == "swap" else 0,
            drafts=drafts,
        )
        for sequence in sequences:
            self.add_one(**sequence)

    def open(self) -> list[Sequence]:
        return [sequence for sequence in self.bench.sequences if not sequence.finished]

    def settled(self, pick: int) -> Sequence | None:
        """One that has not ended, all tokens read."""
        self.bench.settle()
        sequences = self.open()
        return sequences[pick % len(sequences)] if sequences else None

    def add_one(self, prompt, max_tokens, kind, early, **options):
        bench = self.bench
        try:
            check_fits(len(prompt), bench.engine, bench.blocks)
        except ResourceExhausted:
            assert len(prompt) > bench.blocks.num_total * bench.engine.page_size
        except RequestError:
            assert not bench.engine.chunked_prefill
        else:
            bench.add(
                prompt,
                max_tokens,
                arrival=-1.0 - len(bench.sequences) if early else None,
                score_only=kind == "score_only",
                prompt_logprobs=0 if kind else None,
                **options,
            )

    @rule(sequence=SEQUENCE, steps=STEPS)
    def add(self, sequence, steps):
        self.add_one(**sequence)
        self.step(steps)

    @rule(steps=st.integers(1, 8))
    def step_only(self, steps):
        self.step(steps)

    def step(self, steps):
        bench = self.bench
        for _ in range(steps):
            if not bench.scheduler.has_work and bench.in_flight is None:
                return
            landed = bench.in_flight is None or not bench.in_flight[0].chunks
            must_move = landed and bench.scheduler.has_work
            schedule = bench.step()
            assert schedule.chunks or schedule.preempted or not must_move
            check_schedule(bench, schedule)
            check_all(bench)

    @precondition(lambda self: self.bench.sequences)
    @rule(pick=PICK, steps=STEPS)
    def abort(self, pick, steps):
        """In any state, the ended ones among them."""
        sequence = self.bench.sequences[pick % len(self.bench.sequences)]
        if not sequence.finished:
            self.aborted.add(sequence)
        self.bench.finish(sequence)
        self.step(steps)

    @precondition(lambda self: self.bench.scheduler.running)
    @rule(pick=PICK, steps=STEPS)
    def preempt(self, pick, steps):
        running = self.bench.scheduler.running
        self.bench.scheduler.preempt(running[pick % len(running)])
        self.step(steps)

    @precondition(lambda self: self.bench.scheduler.has_work)
    @rule(pick=PICK, priority=st.sampled_from(Priority), steps=STEPS)
    def update_priority(self, pick, priority, steps):
        sequences = self.open()
        self.bench.scheduler.update_priority(sequences[pick % len(sequences)], priority)
        self.step(steps)

    @precondition(lambda self: self.bench.scheduler.has_work)
    @rule(pick=PICK, same_seed=st.booleans(), steps=STEPS)
    def fork(self, pick, same_seed, steps):
        parent = self.settled(pick)
        if parent is not None and not parent.request.score_only:
            self.bench.fork(parent, seed=parent.seed if same_seed else None)
        self.step(steps)

    @precondition(lambda self: self.bench.scheduler.running)
    @rule(pick=PICK, index=st.integers(1, 3), steps=STEPS)
    def follow(self, pick, index, steps):
        """Another completion of a request, while its first one's tokens are on their way."""
        running = self.bench.scheduler.running
        leader = running[pick % len(running)]
        if leader.num_scheduled >= leader.prompt_len and not leader.request.score_only:
            self.bench.follow(leader, index)
        self.step(steps)

    @precondition(lambda self: self.bench.scheduler.has_work)
    @rule(pick=PICK, steps=STEPS)
    def snapshot(self, pick, steps):
        sequence = self.settled(pick)
        if sequence is not None:
            self.bench.snapshot(sequence)
        self.step(steps)

    @precondition(lambda self: self.bench.snapshots)
    @rule(pick=PICK, max_tokens=st.integers(1, 8), shorter=st.integers(0, 3), steps=STEPS)
    def resume(self, pick, max_tokens, shorter, steps):
        bench = self.bench
        snapshot = bench.snapshots[pick % len(bench.snapshots)]
        try:
            check_fits(len(snapshot.token_ids), bench.engine, bench.blocks)
        except (RequestError, ResourceExhausted):
            return
        bench.resume(snapshot, max_tokens, shorter=min(shorter, len(snapshot.token_ids) - 1))
        self.step(steps)

    @precondition(lambda self: self.bench.snapshots)
    @rule(pick=PICK, steps=STEPS)
    def drop(self, pick, steps):
        """One that was dropped already among them."""
        self.bench.scheduler.drop(self.bench.snapshots[pick % len(self.bench.snapshots)])
        self.step(steps)

    @precondition(lambda self: self.bench.scheduler.has_work)
    @rule(pick=PICK, back=st.integers(0, 12), other=st.booleans(), steps=STEPS)
    def rewind(self, pick, back, other, steps):
        sequence = self.settled(pick)
        if sequence is not None:
            length = max(sequence.prompt_len, len(sequence.token_ids) - back)
            self.bench.rewind(sequence, length, seed=1000 + back if other else None)
        self.step(steps)

    @rule(steps=STEPS)
    def clear_prefixes(self, steps):
        self.bench.blocks.clear_prefixes()
        self.step(steps)

    @rule(broken_off=st.booleans(), sure=st.integers(0, 9), steps=STEPS)
    def reset(self, broken_off, sure, steps):
        """Rarely: everything ends, by itself or because a step was broken off."""
        if not sure:
            self.aborted.update(self.open())
            if broken_off:
                self.bench.recover()
            for sequence in self.bench.sequences:
                self.bench.finish(sequence)
            assert not self.bench.scheduler.has_work
        self.step(steps)

    @invariant()
    def accounts_are_right(self):
        check_all(self.bench)

    def teardown(self):
        """Left alone, everything ends, each with its own tokens, and every page is free."""
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        bench.run(limit=50 + 20 * sum(sequence.max_len for sequence in self.open()))
        for snapshot in bench.snapshots:
            bench.scheduler.drop(snapshot)
        check_all(bench)
        assert bench.blocks.num_free == bench.blocks.num_total
        assert bench.blocks.num_host_free == bench.num_host_pages
        for sequence in bench.sequences:
            expected = bench.expected(sequence)
            if sequence in self.aborted:
                expected = expected[: len(sequence.token_ids)]
            assert sequence.token_ids == expected


SchedulerMachine.TestCase.settings = settings(
    max_examples=400, stateful_step_count=50, deadline=None
)
TestSchedulerMachine = SchedulerMachine.TestCase
