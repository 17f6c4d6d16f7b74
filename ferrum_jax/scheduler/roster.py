"""Who is here, what each holds, and how it comes and goes. Forming a step is `scheduler.py`."""

from __future__ import annotations

from collections.abc import Iterable

from ferrum_jax.interfaces import BlockManager, SchedulingPolicy
from ferrum_jax.scheduler.limits import check_can_end
from ferrum_jax.scheduler.plan import Pages, StepPlan
from ferrum_jax.scheduler.queue import WaitingQueue
from ferrum_jax.types import (
    BlockTable,
    EngineConfig,
    Priority,
    RequestState,
    ResourceExhausted,
    SchedulerError,
    Sequence,
    Snapshot,
)


class Roster:
    """The sequences that run or wait, with their slots and pages.

    Whoever does not run may hold pages all the same: a fork that waits, a snapshot. When pages run
    out they are the first to give theirs back.
    """

    def __init__(
        self,
        engine: EngineConfig,
        blocks: BlockManager,
        policy: SchedulingPolicy,
        max_model_len: int,
        shares_pages: bool = True,
    ):
        """Args:
        shares_pages: whether a sequence can go on from pages alone; without, whatever does not
            run computes its tokens anew.
        """
        self._shares_pages = shares_pages
        self._engine, self._blocks, self._policy = engine, blocks, policy
        self._max_model_len = max_model_len
        # A dict as an ordered set: whatever ends or gives way is taken out in O(1).
        self._running: dict[Sequence, None] = {}
        self._waiting = WaitingQueue(policy)
        self._holders: dict[Sequence | Snapshot, None] = {}
        self._free_slots = list(range(engine.max_num_seqs - 1, -1, -1))
        self._swapped_out: list[tuple[Sequence, Pages]] = []

    @property
    def running(self) -> tuple[Sequence, ...]:
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Those that wait for their first step and those that were preempted."""
        return tuple(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._running or len(self._waiting))

    def check_queue(self, count: int) -> None:
        """Raise `ResourceExhausted` if `count` more sequences may not wait."""
        limit = self._engine.max_waiting
        if limit is not None and len(self._waiting) + count > limit:
            raise ResourceExhausted(
                f"{len(self._waiting)} sequences wait and EngineConfig.max_waiting = {limit} "
                f"leaves no room for {count} more; try again later, or raise max_waiting"
            )

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; `SchedulerError` if it is not new or could never end."""
        self._check_new(sequence)
        if not self._waiting.has_line(self._policy.group(sequence)):
            self._policy.join(sequence)
        self._waiting.push(sequence)

    def fork(self, table: BlockTable, num_tokens: int, sequence: Sequence) -> None:
        """Queue a new sequence whose first `num_tokens` tokens lie in another one's pages."""
        if not num_tokens < sequence.num_tokens:
            raise SchedulerError(
                f"a fork of {sequence.num_tokens} tokens takes over at most all but the last, "
                f"not {num_tokens}"
            )
        self._check_new(sequence)
        if not self._shares_pages:
            self.add(sequence)
            return
        sequence.blocks = self._blocks.fork(table, num_tokens)
        sequence.num_scheduled = sequence.num_cached = num_tokens
        if sequence.blocks.pages:
            self._holders[sequence] = None
        self.add(sequence)

    def num_shareable(self, sequence: Sequence) -> int:
        """Known tokens whose pages another can share: all but the last, none in host memory."""
        if sequence.swapped or not self._shares_pages:
            return 0
        return min(sequence.num_scheduled, len(sequence.token_ids) - 1)

    def snapshot(self, sequence: Sequence) -> Snapshot:
        """A sequence as it stands, its known tokens; it shares the pages, while they last."""
        tokens, known = tuple(sequence.token_ids), self.num_shareable(sequence)
        request = sequence.request
        snapshot = Snapshot(
            tokens,
            sequence.prompt_len,
            cache_salt=request.cache_salt,
            taps=request.taps,
            edits_digest=request.edits_digest,
            num_scheduled=known,
        )
        snapshot.blocks = self._blocks.fork(sequence.blocks, known)
        self._holders[snapshot] = None
        return snapshot

    def drop(self, snapshot: Snapshot) -> None:
        """Give a snapshot's pages back; idempotent."""
        if snapshot in self._holders:
            del self._holders[snapshot]
            self._take_pages(snapshot)

    def num_held(self, snapshot: Snapshot) -> int:
        """Tokens whose pages a snapshot holds here: none once they were taken back, or if its
        sequence was another engine's."""
        return snapshot.num_scheduled if snapshot in self._holders else 0

    def drop_all_pages(self) -> None:
        """Take the pages of all that do not run: the cache behind them is lost."""
        while self._reclaim():
            pass

    def rewind(self, sequence: Sequence, num_tokens: int) -> None:
        """Forget all tokens of a sequence behind the first `num_tokens`, and their pages.

        Raises:
            SchedulerError: a token is still on its way, or the sequence has ended or has no such
                length behind its prompt.
        """
        if sequence.finished or sequence.num_pending:
            raise SchedulerError("only a sequence that has not ended, all tokens read, is rewound")
        if not sequence.prompt_len <= num_tokens <= len(sequence.token_ids):
            raise SchedulerError(
                f"a sequence of {len(sequence.token_ids)} tokens, {sequence.prompt_len} of them "
                f"the prompt, cannot be rewound to {num_tokens}"
            )
        if sequence.swapped:
            self._drop_swapped(sequence)
        del sequence.token_ids[num_tokens:]
        del sequence.mirostat_mus[num_tokens - sequence.prompt_len :]
        # The last token is computed again: its logits choose the next one.
        kept = num_tokens - 1 if self._shares_pages else 0
        sequence.num_scheduled = min(sequence.num_scheduled, kept)
        self._blocks.truncate(sequence.blocks, sequence.num_scheduled)

    def make_room(self, sequence: Sequence, num_tokens: int) -> int:
        """Give a sequence pages for so many tokens, if there are free ones; how many there is
        room for now, in pages that are its own.

        While others may have its last page too there is none: its next step copies that page.
        """
        table, start = sequence.blocks, sequence.num_scheduled
        if table.tail_shared:
            return start
        if self._blocks.can_write(table, start, num_tokens):
            self._blocks.prepare(table, start, num_tokens)
        return len(table.pages) * self._blocks.page_size

    def note_verified(self, sequence: Sequence, num_tokens: int) -> None:
        """A draft was verified: of the sequence, so many tokens stand in the cache for good.

        What lies behind them is overwritten. A sequence that has given way has no draft any more.
        """
        if sequence.num_drafted:
            sequence.num_scheduled, sequence.num_drafted = num_tokens, 0

    def update_priority(self, sequence: Sequence, priority: Priority) -> None:
        """Change how urgent a sequence is, wherever it stands."""
        sequence.priority = priority
        self._waiting.update(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take pages and slot from a running sequence; `SchedulerError` if it does not run."""
        plan = StepPlan(0, self._swapped_out)
        self._give_way(plan, sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, whatever its state, and free its pages and slot; idempotent."""
        if sequence.swapped:
            self._drop_swapped(sequence)
        self._leave(sequence, RequestState.FINISHED)

    def _check_new(self, sequence: Sequence) -> None:
        if sequence.state is not RequestState.WAITING or sequence in self._waiting:
            raise SchedulerError(
                f"a sequence is added once, when new; this one is {sequence.state}"
            )
        check_can_end(sequence, self._max_model_len, self._blocks)

    def _give_way(self, plan: StepPlan, sequence: Sequence) -> None:
        if sequence not in self._running:
            raise SchedulerError(f"only a running sequence is preempted; this is {sequence.state}")
        # A page that this step was going to copy is not worth moving: it holds nothing yet.
        copied = plan.withdraw(sequence)
        # Whether a draft that is being verified is right is not known yet: it does not count.
        sequence.num_scheduled -= sequence.num_drafted
        sequence.num_drafted, sequence.draft = 0, ()
        pages = None
        if self._engine.preemption == "swap" and sequence.num_scheduled and not copied:
            pages = self._blocks.swap_out(sequence.blocks, sequence.num_scheduled)
        self._leave(sequence, RequestState.PREEMPTED)
        sequence.num_preemptions += 1
        if pages is None:
            sequence.num_scheduled = 0
        else:
            plan.swapped_out.append((sequence, pages))
            sequence.swapped = True
            sequence.num_swaps += 1
        self._waiting.push(sequence)
        plan.preempted.append(sequence)

    def _cache_pages(self, sequences: Iterable[Sequence]) -> None:
        """Offer full pages of known tokens to others: a step writes its pages before it reads."""
        for sequence in sequences:
            known = min(sequence.num_scheduled, len(sequence.token_ids))
            if known // self._blocks.page_size > sequence.blocks.num_cached:
                self._blocks.cache_full_pages(
                    sequence.blocks, sequence.token_ids, known, sequence.request.prefix_salt
                )

    def _reclaim(self, besides: Sequence | None = None) -> bool:
        """Take the pages of a snapshot or of a waiting fork; False if none holds any."""
        holder = next((h for h in self._holders if h is not besides), None)
        if holder is None:
            return False
        del self._holders[holder]
        self._take_pages(holder)
        if isinstance(holder, Sequence):
            holder.num_cached = 0
        return True

    def _take_pages(self, holder: Sequence | Snapshot) -> None:
        self._blocks.release(holder.blocks)
        holder.num_scheduled = 0

    def _drop_swapped(self, sequence: Sequence) -> None:
        self._blocks.swap_in(sequence.num_scheduled)
        sequence.swapped, sequence.num_scheduled = False, 0
        # A move that was planned and has not been made is not made any more.
        self._swapped_out = [move for move in self._swapped_out if move[0] is not sequence]

    def _leave(self, sequence: Sequence, state: RequestState) -> None:
        if self._blocks.caches_prefixes and sequence.blocks.pages:
            self._cache_pages((sequence,))
        self._waiting.remove(sequence)
        self._running.pop(sequence, None)
        self._holders.pop(sequence, None)
        self._blocks.release(sequence.blocks)
        if sequence.slot is not None:
            self._free_slots.append(sequence.slot)
        sequence.slot, sequence.state = None, state
