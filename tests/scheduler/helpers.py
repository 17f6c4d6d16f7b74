"""A scheduler with its parts, and a device whose pages hold what was written to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from ferrum_jax.interfaces import SchedulingPolicy
from ferrum_jax.kv import BlockTableManager
from ferrum_jax.kv.prefix import PageHash, hash_page
from ferrum_jax.scheduler import ContinuousScheduler, make_policy, sequence_limit
from ferrum_jax.types import (
    BlockTable,
    DataType,
    EngineConfig,
    KVCacheConfig,
    Priority,
    Request,
    SamplingParams,
    Schedule,
    ScheduledChunk,
    Sequence,
    Snapshot,
)

MAX_MODEL_LEN = 64
EMPTY = 0
"""What a slot holds that was never written."""


def extend(content: int, token: int) -> int:
    """The keys and values of a token: those of all before it, and its own. An integer."""
    return hash((content, token))


def root(salt: str) -> int:
    """What a sequence starts from: nothing of one salt may be read under another."""
    return hash(tuple(salt.encode()))


def sample(sequence: Sequence, content: int) -> int:
    """The token after `content`: by it and the sequence's stream, like the real device's."""
    return 1 + hash((content, sequence.seed, sequence.index)) % 50


def continued(sequence: Sequence, tokens: list[int], length: int) -> list[int]:
    """`tokens`, continued by this sequence alone up to `length` tokens."""
    tokens, content = list(tokens), root(sequence.request.cache_salt)
    for token in tokens:
        content = extend(content, token)
    while len(tokens) < length:
        tokens.append(sample(sequence, content))
        content = extend(content, tokens[-1])
    return tokens


class Device:
    """Runs schedules in the order of `runtime/executor.py`, one integer per slot of a page.

    A chunk must find in its pages the content of exactly its own earlier tokens, both at its place
    in the step and after the whole step has written. Its page table is a row per slot that, as on
    the real device, is only appended to until an admission or a copy says otherwise.
    """

    def __init__(self, num_pages: int, page_size: int):
        self._page_size = page_size
        self.pages = [[EMPTY] * page_size for _ in range(num_pages)]
        self.host: dict[Sequence, list[list[int]]] = {}
        self._contents: dict[Sequence, list[int]] = {}
        self._rows: dict[int | None, list[int]] = {}
        self.num_computed = 0
        self.num_copied = 0

    def execute(self, schedule: Schedule) -> list[list[int]]:
        """Run a step; the tokens that each chunk samples, behind what is right of its draft."""
        for sequence, pages in schedule.swapped_out:
            self.host[sequence] = [list(self.pages[page]) for page in pages]
        for sequence, old, new in schedule.copies:
            self.pages[new] = list(self.pages[old])
            self._rows[sequence.slot] = []
        self.num_copied += len(schedule.copies)
        for sequence, pages in schedule.swapped_in:
            for page, content in zip(pages, self.host.pop(sequence), strict=True):
                self.pages[page] = content
        for sequence in schedule.admitted:
            self.refresh(sequence)
        tokens = [self._run(*chunk) for chunk in schedule.chunks]
        for chunk, sampled in zip(schedule.chunks, tokens, strict=True):
            end = chunk.end + max(0, len(sampled) - 1)
            self.check(chunk.sequence, chunk.sequence.blocks, end)
        return tokens

    def refresh(self, sequence: Sequence) -> None:
        """Take a running sequence's tokens over from the host, and its page table."""
        self._rows[sequence.slot] = []
        self._contents[sequence] = contents(sequence.token_ids, sequence.request.cache_salt)

    def check(self, sequence: Sequence, table: BlockTable, end: int) -> None:
        """Whether a table holds the content of the sequence's first `end` tokens."""
        expected = self._contents[sequence] if sequence.slot is not None else None
        if expected is None:
            expected = contents(sequence.token_ids, sequence.request.cache_salt)
        assert self.read(table, end) == expected[:end]

    def read(self, table: BlockTable, end: int) -> list[int]:
        """What a table's pages hold of its first `end` tokens."""
        found = [content for page in table.pages for content in self.pages[page]]
        return found[:end]

    def _run(
        self, sequence: Sequence, start: int, length: int, samples: bool, draft: tuple[int, ...],
        steps: int = 1,
    ) -> list[int]:  # fmt: skip
        if steps > 1:
            assert samples
            assert length == steps
            return [self._run(sequence, start + i, 1, True, ())[0] for i in range(steps)]
        row, pages, size = self._rows[sequence.slot], sequence.blocks.pages, self._page_size
        row += pages[len(row) :]
        assert row == pages, "the device's page table is out of date"
        known, end = self._contents[sequence], start + length - len(draft)
        assert len(known) >= end, "a token is run before it is known"
        written = known[:end]
        for token in draft:
            written.append(extend(written[-1], token))
        for position in range(start, start + length):
            self.pages[row[position // size]][position % size] = written[position]
        self.num_computed += length
        self.check(sequence, sequence.blocks, end)
        if not samples:
            assert not draft
            return []
        assert len(known) == end, "the last token's logits are wanted"
        sampled = []
        for guess in (*draft, None):
            sampled.append(sample(sequence, known[-1]))
            known.append(extend(known[-1], sampled[-1]))
            if sampled[-1] != guess:
                break
        return sampled


def contents(tokens: list[int] | tuple[int, ...], salt: str) -> list[int]:
    """The content of each token's slot."""
    found, content = [], root(salt)
    for token in tokens:
        content = extend(content, token)
        found.append(content)
    return found


@dataclass
class Bench:
    """An engine's loop around the scheduler, its device one step ahead of what the host knows."""

    engine: EngineConfig
    num_pages: int
    max_model_len: int = MAX_MODEL_LEN
    policy: SchedulingPolicy | None = None
    """None: the one that the engine's settings name."""
    num_host_pages: int = 0
    hasher: PageHash = hash_page
    drafts: tuple[int, int] = (0, 0)
    """Tokens of a draft, and how many of them are right."""
    blocks: BlockTableManager = field(init=False)
    scheduler: ContinuousScheduler = field(init=False)
    device: Device = field(init=False)
    sequences: list[Sequence] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    started: dict[Sequence, list[int]] = field(default_factory=dict)
    """The tokens that each sequence was given: its own stream writes those behind them."""
    in_flight: tuple[Schedule, list[list[int]]] | None = None

    def __post_init__(self) -> None:
        engine = self.engine
        self._ids = count()
        self.blocks = BlockTableManager(
            KVCacheConfig(self.num_pages, engine.page_size, DataType.FLOAT32),
            prefix_caching=engine.prefix_caching,
            eviction=engine.eviction,
            hasher=self.hasher,
            num_host_pages=self.num_host_pages,
        )
        policy = make_policy(engine) if self.policy is None else self.policy
        self.scheduler = ContinuousScheduler(engine, self.blocks, policy, self.max_model_len)
        self.device = Device(self.num_pages, engine.page_size)

    def make(
        self, prompt: int | list[int], max_tokens: int = 4, *, score_only: bool = False,
        index: int = 0, arrival: float | None = None, seed: int | None = None, client: str = "",
        priority: Priority = Priority.NORMAL, salt: str = "", prompt_logprobs: int | None = None,
        tokens: list[int] | None = None, single_steps: bool = False,
    ) -> Sequence:  # fmt: skip
        """A new sequence, not yet added. A prompt given as its length is 1, 2, 3 and so on;
        `arrival` defaults to its place in line, and `seed` to a stream of its own."""
        request_id = next(self._ids)
        ids = [1 + i % 50 for i in range(prompt)] if isinstance(prompt, int) else prompt
        request = Request(
            request_id=request_id,
            prompt_token_ids=tuple(ids),
            params=SamplingParams(max_tokens=max_tokens, prompt_logprobs=prompt_logprobs),
            score_only=score_only,
            arrival=float(request_id) if arrival is None else arrival,
            client=client,
            priority=priority,
            cache_salt=salt,
        )
        limit = sequence_limit(len(ids), max_tokens, self.max_model_len, self.blocks)
        sequence = Sequence(
            request,
            index,
            max_len=len(ids) if score_only else limit,
            seed=request_id if seed is None else seed,
            token_ids=list(ids if tokens is None else tokens),
            settles=self.drafts[0] > 0,
            single_steps=single_steps,
        )
        self.sequences.append(sequence)
        self.started[sequence] = list(sequence.token_ids)
        return sequence

    def add(self, prompt: int | list[int], max_tokens: int = 4, **options) -> Sequence:
        sequence = self.make(prompt, max_tokens, **options)
        self.scheduler.add(sequence)
        return sequence

    def fork(self, parent: Sequence, *, seed: int | None = None, **options) -> Sequence:
        """`Engine.fork`: a twin of a sequence as it stands."""
        self.settle()
        request, tokens = parent.request, list(parent.token_ids)
        twin = self.make(
            list(request.prompt_token_ids),
            request.params.max_tokens,
            seed=seed,
            client=request.client,
            salt=request.cache_salt,
            tokens=tokens,
            **options,
        )
        known = 0 if parent.swapped else min(parent.num_scheduled, len(tokens) - 1)
        self.scheduler.fork(parent.blocks, known, twin)
        return twin

    def follow(self, leader: Sequence, index: int) -> Sequence:
        """Another completion of a request whose first has run its prompt."""
        follower = self.make(
            list(leader.request.prompt_token_ids),
            leader.request.params.max_tokens,
            index=index,
            seed=leader.seed,
            salt=leader.request.cache_salt,
        )
        self.scheduler.fork(leader.blocks, leader.prompt_len - 1, follower)
        return follower

    def snapshot(self, sequence: Sequence) -> Snapshot:
        """`Engine.snapshot`."""
        self.settle()
        snapshot = self.scheduler.snapshot(sequence)
        self.snapshots.append(snapshot)
        return snapshot

    def resume(
        self, snapshot: Snapshot, max_tokens: int = 4, *, shorter: int = 0, **options
    ) -> Sequence:
        """`Engine.resume`, or `add(after=)` a prompt that is some tokens shorter."""
        tokens = list(snapshot.token_ids[: len(snapshot.token_ids) - shorter])
        sequence = self.make(tokens, max_tokens, salt=snapshot.cache_salt, **options)
        if snapshot.num_scheduled:
            known = min(snapshot.num_scheduled, len(tokens) - 1)
            self.scheduler.fork(snapshot.blocks, known, sequence)
        else:
            self.scheduler.add(sequence)
        return sequence

    def rewind(self, sequence: Sequence, length: int, *, seed: int | None = None) -> None:
        """`Engine.rewind`, to a length in place of by a number of tokens; with another `seed` other
        tokens follow, as they would under other settings of the sampler."""
        self.settle()
        self.scheduler.rewind(sequence, length)
        del self.started[sequence][length:]
        if seed is not None:
            sequence.seed, self.started[sequence] = seed, list(sequence.token_ids)
        self.device.host.pop(sequence, None)
        if sequence.slot is not None:
            self.device.refresh(sequence)

    def finish(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        self.device.host.pop(sequence, None)

    def recover(self) -> None:
        """A step was broken off: everything ends, and the device's memory is gone."""
        self.in_flight = None
        for sequence in self.sequences:
            self.finish(sequence)
        self.scheduler.drop_all_pages()
        self.blocks.clear_prefixes()
        self.device = Device(self.num_pages, self.engine.page_size)

    def step(self) -> Schedule:
        """Dispatch one step, then read the one before (or this one, when not running ahead)."""
        if self.drafts[0]:
            self.draft()
        schedule = self.scheduler.schedule()
        tokens = self.device.execute(schedule)
        self.settle()
        self.in_flight = schedule, tokens
        if not self.engine.run_ahead:
            self.settle()
        return schedule

    def draft(self) -> None:
        """Guess what those that decode go on with."""
        length, right = self.drafts
        for sequence in self.scheduler.running:
            known = len(sequence.token_ids)
            if sequence.num_pending or sequence.num_scheduled != known - 1:
                continue
            truth = continued(sequence, sequence.token_ids, known + length)[known:]
            sequence.draft = (*truth[:right], *(token + 1 for token in truth[right:]))

    def settle(self) -> None:
        """Read what is in flight."""
        landed, self.in_flight = self.in_flight, None
        if landed is not None:
            for chunk, tokens in zip(landed[0].chunks, landed[1], strict=True):
                self._land(chunk, tokens)

    def steps_until_finished(self, sequence: Sequence, limit: int = 200) -> Iterator[Schedule]:
        """Each step up to the one in which the sequence ends; fails after `limit` of them."""
        for _ in range(limit):
            yield self.step()
            if sequence.finished:
                return
        raise AssertionError(f"{sequence} has not ended after {limit} steps")

    def step_until_preempted(self, limit: int = 50) -> Schedule:
        """The first step in which somebody gave way."""
        schedules = (self.step() for _ in range(limit))
        return next(schedule for schedule in schedules if schedule.preempted)

    def run(self, limit: int = 1000) -> int:
        """Steps until nothing is left to do; fails after `limit` of them."""
        for steps in range(limit):
            if not self.scheduler.has_work:
                self.settle()
                return steps
            self.step()
        raise AssertionError(f"work is left after {limit} steps: {self.scheduler.running}")

    def expected(self, sequence: Sequence) -> list[int]:
        """The tokens that a sequence has when it has ended by itself."""
        length = sequence.prompt_len if sequence.request.score_only else sequence.max_len
        return continued(sequence, self.started[sequence], length)

    def check_all_ended(self) -> None:
        """Everything has ended with the tokens of a run alone, and no page is left behind."""
        for sequence in self.sequences:
            assert sequence.finished
            assert sequence.token_ids == self.expected(sequence)
        assert self.blocks.num_free == self.blocks.num_total
        assert self.blocks.num_host_free == self.num_host_pages

    def _land(self, chunk: ScheduledChunk, tokens: list[int]) -> None:
        sequence, end = chunk.sequence, chunk.end
        sequence.num_pending -= chunk.steps if tokens else 0
        if sequence.finished:
            return
        if tokens:
            assert len(sequence.token_ids) == end, "a token arrives out of turn"
            self.scheduler.note_verified(sequence, end + len(tokens) - 1)
            sequence.token_ids += tokens
        done = sequence.request.score_only and end == sequence.prompt_len
        if done or len(sequence.token_ids) == sequence.max_len:
            self.finish(sequence)


def engine(**settings) -> EngineConfig:
    return EngineConfig(
        **{"page_size": 4, "max_num_seqs": 4, "max_num_batched_tokens": 8, **settings}
    )


def lengths(schedule: Schedule) -> list[tuple[int, int, int, bool]]:
    """Per chunk: request, start, length, samples."""
    return [(c.sequence.request.request_id, c.start, c.length, c.samples) for c in schedule.chunks]


def hold(bench: Bench, num_tokens: int) -> BlockTable:
    """Pages that the scheduler knows nothing of."""
    table = BlockTable()
    bench.blocks.prepare(table, 0, num_tokens)
    return table
