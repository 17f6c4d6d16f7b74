"""Forms each step from what runs and what waits.

A step has one budget of tokens, shared by decodes and prefill chunks. Running sequences come
first, in the order in which they were admitted; what they leave goes to waiting ones. When pages
run out, the policy's victim gives its own back and computes its tokens anew later.
"""

from __future__ import annotations

from ferrum_jax.interfaces import BlockManager, SchedulingPolicy
from ferrum_jax.scheduler.limits import check_can_end
from ferrum_jax.types import (
    EngineConfig,
    RequestState,
    ResourceExhausted,
    Schedule,
    ScheduledChunk,
    SchedulerError,
    Sequence,
)


class ContinuousScheduler:
    """Continuous batching with chunked prefill and preemption by recomputing.

    It advances a sequence when it schedules it, not when the step has run: the next step can be
    formed at once. Whoever reads a step's tokens lowers `num_pending` and appends them.
    """

    def __init__(
        self,
        engine: EngineConfig,
        blocks: BlockManager,
        policy: SchedulingPolicy,
        max_model_len: int,
    ):
        self._engine, self._blocks, self._policy = engine, blocks, policy
        self._max_model_len = max_model_len
        # Dicts as ordered sets: whatever ends or gives way is taken out in O(1).
        self._running: dict[Sequence, None] = {}
        self._waiting: dict[Sequence, None] = {}
        self._free_slots = list(range(engine.max_num_seqs - 1, -1, -1))

    @property
    def running(self) -> tuple[Sequence, ...]:
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Those that wait for their first step and those that were preempted."""
        return tuple(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; `SchedulerError` if it is not new or could never end."""
        if sequence.state is not RequestState.WAITING or sequence in self._waiting:
            raise SchedulerError(
                f"a sequence is added once, when new; this one is {sequence.state}"
            )
        check_can_end(sequence, self._max_model_len, self._blocks)
        self._waiting[sequence] = None

    def schedule(self) -> Schedule:
        """The next step's chunks; empty when nothing can run before more tokens are read.

        Raises:
            ResourceExhausted: pages held outside the scheduler leave too few for any sequence.
        """
        chunks: dict[Sequence, ScheduledChunk] = {}
        preempted: list[Sequence] = []
        budget = self._engine.max_num_batched_tokens
        for sequence in tuple(self._running):
            length = min(budget, _work(sequence))
            if length <= 0:
                continue
            end = sequence.num_scheduled + length
            # Without a slot it has given way: to one before it, or to itself in this loop.
            while sequence.slot is not None and not self._blocks.can_grow(sequence.blocks, end):
                victim = self._policy.victim(self._running) or sequence
                budget += _withdraw(chunks, victim)
                self.preempt(victim)
                preempted.append(victim)
            if sequence.slot is not None:
                chunks[sequence] = self._advance(sequence, length)
                budget -= length
        # Nobody starts on pages that were just taken from another.
        admitted = [] if preempted else self._admit(chunks, budget)
        return Schedule(tuple(chunks.values()), tuple(admitted), tuple(preempted))

    def preempt(self, sequence: Sequence) -> None:
        """Take pages and slot from a running sequence; `SchedulerError` if it does not run."""
        if sequence not in self._running:
            raise SchedulerError(f"only a running sequence is preempted; this is {sequence.state}")
        self._leave(sequence, RequestState.PREEMPTED)
        sequence.num_scheduled = 0
        sequence.num_preemptions += 1
        self._waiting[sequence] = None

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, whatever its state, and free its pages and slot; idempotent."""
        self._leave(sequence, RequestState.FINISHED)

    def _leave(self, sequence: Sequence, state: RequestState) -> None:
        self._waiting.pop(sequence, None)
        self._running.pop(sequence, None)
        self._blocks.release(sequence.blocks)
        if sequence.slot is not None:
            self._free_slots.append(sequence.slot)
        sequence.slot, sequence.state = None, state

    def _admit(self, chunks: dict[Sequence, ScheduledChunk], budget: int) -> list[Sequence]:
        """Start waiting sequences in the policy's order, up to the first that has to wait on."""
        admitted: list[Sequence] = []
        if not (budget and self._waiting and self._free_slots):
            return admitted
        for sequence in self._policy.order(self._waiting):
            length = min(budget, _work(sequence))
            if not (length > 0 and self._free_slots and self._can_start(sequence, length)):
                break
            del self._waiting[sequence]
            self._running[sequence] = None
            sequence.state, sequence.slot = RequestState.RUNNING, self._free_slots.pop()
            chunks[sequence] = self._advance(sequence, length)
            budget -= length
            admitted.append(sequence)
        return admitted

    def _can_start(self, sequence: Sequence, length: int) -> bool:
        if sequence.num_pending:  # Preempted, with a token still on its way from the device.
            return False
        work, largest = _work(sequence), self._engine.max_num_batched_tokens
        # What it generated may have made a preempted sequence longer than any step: then cut it.
        if not self._engine.chunked_prefill and length < work <= largest:
            return False
        # Pages for all its tokens, not for this chunk alone: it would run dry and start over.
        fits = self._blocks.can_grow(sequence.blocks, sequence.num_tokens)
        if not fits and not self._running:
            raise ResourceExhausted(
                f"a sequence of {sequence.num_tokens} tokens cannot start although none runs: "
                f"{self._blocks.num_free} of {self._blocks.num_total} KV pages are free; release "
                "the block tables that were forked, or raise EngineConfig.num_pages"
            )
        return fits

    def _advance(self, sequence: Sequence, length: int) -> ScheduledChunk:
        """Give a sequence the chunk's pages and count the chunk as done."""
        start = sequence.num_scheduled
        end = start + length
        self._blocks.grow(sequence.blocks, end)
        samples = end == sequence.num_tokens and not sequence.request.score_only
        sequence.num_scheduled = end
        sequence.num_pending += samples
        return ScheduledChunk(sequence, start, length, samples)


def _work(sequence: Sequence) -> int:
    """Tokens that it could run now; none when its last token is already known or on its way."""
    num_tokens = len(sequence.token_ids) + sequence.num_pending
    if num_tokens >= sequence.max_len and not sequence.request.score_only:
        return 0
    return num_tokens - sequence.num_scheduled


def _withdraw(chunks: dict[Sequence, ScheduledChunk], victim: Sequence) -> int:
    """Take a victim's chunk back out of the step; returns the tokens that this leaves."""
    chunk = chunks.pop(victim, None)
    if chunk is None:
        return 0
    victim.num_pending -= chunk.samples
    return chunk.length
