"""Forms each step from what runs and what waits.

A step has one budget of tokens, shared by decodes and prefill chunks. Running sequences come
first, in the order in which they were admitted; what they leave goes to waiting ones. When pages
run out, the policy's last gives its own back: it computes its tokens anew later, or moves them to
host memory and back.
"""

from __future__ import annotations

from ferrum_jax.scheduler.plan import StepPlan
from ferrum_jax.scheduler.roster import Roster
from ferrum_jax.types import (
    RequestState,
    ResourceExhausted,
    Schedule,
    ScheduledChunk,
    Sequence,
)


class ContinuousScheduler(Roster):
    """Continuous batching with chunked prefill, shared prefixes and preemption.

    It advances a sequence when it schedules it, not when the step has run: the next step can be
    formed at once. Whoever reads a step's tokens lowers `num_pending` and appends them.
    """

    def schedule(self) -> Schedule:
        """The next step's chunks; empty when nothing can run before more tokens are read.

        Raises:
            ResourceExhausted: pages held outside the scheduler leave too few for any sequence.
        """
        plan = StepPlan(self._engine.max_num_batched_tokens, self._swapped_out)
        if self._policy.takes_turns:
            self._rotate(plan)
        rotated = len(plan.preempted)
        self._go_on(plan)
        self._policy.serve(plan.chunks())
        if self._blocks.caches_prefixes:
            self._cache_pages(plan.starts)
        # Nobody starts on pages that were just taken from another.
        if len(plan.preempted) == rotated:
            self._admit(plan)
        if self._engine.decode_steps > 1:
            self._repeat(plan)
        self._swapped_out = []
        return plan.schedule()

    def _go_on(self, plan: StepPlan) -> None:
        """A chunk for every running sequence that has work, while pages and budget last."""
        waiting = len(self._running)
        for sequence in tuple(self._running):
            waiting -= 1
            start = sequence.num_scheduled
            tokens = len(sequence.token_ids) + sequence.num_pending
            if (
                start + 1 == tokens < sequence.free_until
                and tokens <= sequence.blocks.room
                and plan.budget
            ):
                plan.put_next(sequence, start)
                continue
            if tokens >= sequence.max_len and not sequence.score_only:
                continue  # Its last token is known, or on its way.
            if sequence.settles and sequence.num_pending:
                continue
            end = tokens if tokens - start <= plan.budget else start + plan.budget
            if end <= start:
                continue
            draft, last = (), end
            if sequence.draft:
                draft = self._drafted(plan, sequence, start, end, waiting)
                last += len(draft)
            if last > sequence.blocks.room and not self._make_room(plan, sequence, start, last):
                continue
            plan.put(sequence, start, end, tokens, draft)

    def _repeat(self, plan: StepPlan) -> None:
        """Where all that run decode and the host has no say, let them gain several tokens at once:
        as many as there are free pages for, so that nobody takes another's next one."""
        chunks = tuple(plan.chunks())
        if not all(c.samples and c.length == 1 and not c.sequence.single_steps for c in chunks):
            return
        steps = self._engine.decode_steps
        while steps > 1 and not self._has_pages(chunks, steps):
            steps //= 2
        further = []
        for sequence, start, *_ in chunks:
            count = min(steps, sequence.max_len - start - 1)
            if count > 1:
                self._blocks.prepare(sequence.blocks, start, start + count)
                further.append(plan.repeat(sequence, count))
        self._policy.serve(further)

    def _has_pages(self, chunks: tuple[ScheduledChunk, ...], steps: int) -> bool:
        """Whether there are free pages for so many more tokens of every chunk's sequence."""
        wanted = 0
        for sequence, start, *_ in chunks:
            last = min(start + steps, sequence.max_len - 1)
            wanted += max(0, self._blocks.pages_for(last) - len(sequence.blocks.pages))
        return wanted <= self._blocks.num_free

    def _drafted(
        self, plan: StepPlan, sequence: Sequence, start: int, end: int, waiting: int
    ) -> tuple[int, ...]:
        """As much of a sequence's draft as takes nothing from others: no page, no token of those
        that are still to get theirs."""
        draft, sequence.draft = sequence.draft, ()
        if end < sequence.num_tokens:
            return ()
        room = min(plan.budget - (end - start) - waiting, sequence.max_len - end - 1)
        draft = draft[: max(0, room)]
        fits = self._blocks.can_write(sequence.blocks, start, end + len(draft))
        return draft if fits else ()

    def _make_room(self, plan: StepPlan, sequence: Sequence, start: int, end: int) -> bool:
        """Get the pages of `[start, end)`, from others if need be; whether it still runs."""
        while sequence.slot is not None and not self._blocks.can_write(sequence.blocks, start, end):
            if not self._reclaim():
                self._give_way(plan, self._last(plan))
        if sequence.slot is None:  # It gave way: to one before it, or to itself.
            return False
        self._prepare(plan, sequence, start, end)
        return True

    def _prepare(self, plan: StepPlan, sequence: Sequence, start: int, end: int) -> None:
        if copies := self._blocks.prepare(sequence.blocks, start, end):
            plan.copies[sequence] = copies

    def _last(self, plan: StepPlan) -> Sequence:
        """Who gives way next. All are ranked once a step, however many have to."""
        if plan.by_rank is None:
            plan.by_rank = sorted(self._running, key=self._urgency)
        while plan.by_rank[-1] not in self._running:
            plan.by_rank.pop()
        return plan.by_rank.pop()

    def _urgency(self, sequence: Sequence) -> tuple[float, tuple[float, ...]]:
        """What the policy compares; the highest gives way."""
        policy = self._policy
        return policy.group_rank(policy.group(sequence)), policy.rank(sequence)

    def _rotate(self, plan: StepPlan) -> None:
        """Let those that had their turn give way, as long as somebody could start instead."""
        for sequence in tuple(self._running):
            first = self._waiting.first()
            if first is None or first.num_pending or self._has_room(first):
                return
            if self._policy.has_had_its_turn(sequence):
                self._give_way(plan, sequence)

    def _has_room(self, sequence: Sequence) -> bool:
        start = 0 if sequence.swapped else sequence.num_scheduled
        # Pages for all its tokens, not for one chunk alone: it would run dry and start over.
        return bool(self._free_slots) and self._blocks.can_write(
            sequence.blocks, start, sequence.num_tokens
        )

    def _admit(self, plan: StepPlan) -> None:
        """Start waiting sequences in the policy's order, up to the first that has to wait on."""
        while plan.budget and self._free_slots:
            sequence = self._waiting.first()
            if sequence is None or not self._start(plan, sequence):
                return

    def _start(self, plan: StepPlan, sequence: Sequence) -> bool:
        if sequence.num_pending:  # Preempted, with a token still on its way from the device.
            return False
        taken = self._take_prefix(sequence)
        room = self._find_room(sequence)
        work = sequence.num_tokens - sequence.num_scheduled
        length = min(plan.budget, work)
        # What it generated may have made a preempted sequence longer than any step: then cut it.
        largest = self._engine.max_num_batched_tokens
        whole = self._engine.chunked_prefill or not length < work <= largest
        if not (room and length > 0 and whole):
            if taken is not None:
                self._take_pages(sequence)
            return False
        self._enter(plan, sequence)
        if taken is not None:
            self._blocks.count_lookup(sequence.num_tokens, taken)
            sequence.num_cached = taken if not sequence.num_preemptions else sequence.num_cached
        start = sequence.num_scheduled
        self._prepare(plan, sequence, start, start + length)
        plan.put(sequence, start, start + length, sequence.num_tokens)
        self._policy.admit(sequence)
        self._policy.serve((plan.chunk(sequence),))
        if self._blocks.caches_prefixes:
            self._cache_pages((sequence,))
        return True

    def _take_prefix(self, sequence: Sequence) -> int | None:
        """Share the cached pages of a sequence's beginning; None where they are not asked for.

        At least one token is left to compute; captures take computing all, prompt logprobs all
        from the first that is wanted on.
        """
        request = sequence.request
        limit = request.num_shareable(sequence.num_tokens - 1)
        if (
            not self._blocks.caches_prefixes
            or sequence.swapped
            or sequence.blocks.pages
            or not limit
        ):
            return None
        taken = self._blocks.take_prefix(
            sequence.blocks, sequence.token_ids, request.prefix_salt, limit
        )
        sequence.num_scheduled = taken
        return taken

    def _find_room(self, sequence: Sequence) -> bool:
        """Whether there are pages; when nothing runs, those who only hold some give them back."""
        while not self._has_room(sequence):
            if self._running:
                return False
            # Its own go last: a fork that starts from nothing needs no page to copy a shared one.
            if not self._reclaim(besides=sequence) and not self._reclaim():
                if not sequence.swapped:
                    self._take_pages(sequence)
                raise ResourceExhausted(
                    f"a sequence of {sequence.num_tokens} tokens cannot start although none runs: "
                    f"{self._blocks.num_free} of {self._blocks.num_total} KV pages are free; "
                    "release the block tables that were forked, or raise EngineConfig.num_pages"
                )
        return True

    def _enter(self, plan: StepPlan, sequence: Sequence) -> None:
        """Give a waiting sequence a slot, and its pages back if they were swapped."""
        self._waiting.remove(sequence)
        self._holders.pop(sequence, None)
        self._running[sequence] = None
        sequence.state, sequence.slot = RequestState.RUNNING, self._free_slots.pop()
        sequence.admitted_at = len(sequence.token_ids)
        plan.admitted.append(sequence)
        if sequence.swapped:
            self._blocks.prepare(sequence.blocks, 0, sequence.num_scheduled)
            self._blocks.swap_in(sequence.num_scheduled)
            plan.swapped_in.append((sequence, tuple(sequence.blocks.pages)))
            sequence.swapped = False
