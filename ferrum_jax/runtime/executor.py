"""Runs schedules: owns the weights, the cache and the sampling state on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from ferrum_jax.attention import choose_attention
from ferrum_jax.kv import make_cache
from ferrum_jax.models import Params
from ferrum_jax.runtime.devices import decode_compiler_options
from ferrum_jax.runtime.guides import Guides
from ferrum_jax.runtime.shapes import choose_shape, declared_shapes
from ferrum_jax.runtime.step import run_step
from ferrum_jax.runtime.taps.slots import TappedSlots
from ferrum_jax.runtime.tiles import run_tiled_step
from ferrum_jax.runtime.transfer import (
    SwappedPages,
    copy_pages,
    read_pages,
    warm_up_transfers,
    write_pages,
)
from ferrum_jax.sampler import (
    SlotUpdate,
    join_state,
    make_sampling_state,
    processes_logits,
    sequence_key,
    slot_rows,
    split_state,
    write_masks,
    write_slots,
)
from ferrum_jax.types import (
    DeviceInfo,
    EngineConfig,
    KVCache,
    KVCacheConfig,
    ModelConfig,
    ProcessorLane,
    SamplingState,
    Schedule,
    ScheduledChunk,
    SchedulerError,
    Sequence,
    StepBatch,
    StepOutput,
    StepShape,
    TapPlan,
    Taps,
)

ADMITTED_AT_ONCE = 8
"""Sequences whose sampling state one call writes; a step that admits more makes several calls."""

_write_slots = jax.jit(write_slots, donate_argnums=0)
_write_masks = jax.jit(write_masks, donate_argnums=0)


class Executor:
    """A `ModelExecutor`: compiles the declared shapes when they are first needed."""

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        engine: EngineConfig,
        kv: KVCacheConfig,
        guides: Guides,
        *,
        max_model_len: int,
        device: DeviceInfo,
    ):
        self._guides = guides
        self._config = config
        self._params = params
        self._bind = choose_attention(engine.attention, device, config, kv)
        self._decode_options = decode_compiler_options(device.platform)
        self.shapes = declared_shapes(engine)
        self._compiled: dict[StepShape, Callable[..., Any]] = {}
        self._seconds: dict[StepShape, float] = {}
        self._padding_slot = engine.max_num_seqs
        self._max_model_len = max_model_len
        pages = -(-max_model_len // kv.page_size)
        self._tables = np.zeros((engine.max_num_seqs + 1, pages), np.int32)
        self._num_written = [0] * engine.max_num_seqs
        self._kv = kv
        self._draft_len = engine.draft_len
        self._tapped = TappedSlots(self._padding_slot + 1, apart=engine.batch_invariant)
        self.reset()
        self._step = run_tiled_step if engine.batch_invariant else run_step
        self.num_steps = 0

    def reset(self) -> None:
        """An empty cache and neutral slots, as at the start; what was running is lost."""
        self._swapped: dict[Sequence, SwappedPages] = {}
        self._cache = make_cache(self._config, self._kv, num_slots=self._padding_slot)
        state = make_sampling_state(
            self._padding_slot,
            self._max_model_len,
            self._config.vocab_size,
            draft_len=self._draft_len,
        )
        self._sampling = split_state(state)

    @property
    def cache(self) -> KVCache:
        """The cache as the last dispatched step leaves it; the next step consumes it."""
        return self._cache

    @property
    def compilations(self) -> dict[StepShape, float]:
        return dict(self._seconds)

    def execute(self, schedule: Schedule) -> tuple[tuple[Schedule, StepOutput], ...]:
        self._move_pages(schedule)
        self._admit(schedule.admitted)
        if not schedule.chunks:
            return ()
        self.num_steps += 1
        self._restrict([c.sequence for c in schedule.chunks if c.samples and _is_guided(c)])
        parts = self._tapped.split(schedule)
        return tuple((part, self._run(part, plan)) for part, plan in parts)

    def _run(self, schedule: Schedule, plan: TapPlan) -> StepOutput:
        score = any(_scores(chunk) for chunk in schedule.chunks)
        processes = any(_processes(chunk) for chunk in schedule.chunks)
        shape = choose_shape(self.shapes, schedule, score=score, processes=processes)
        if plan:
            shape = replace(shape, plan=plan)
        batch = self._batch(schedule, shape)
        if shape not in self._compiled:
            self.warm_up((shape, *self._following(schedule, shape)))
        step, taps, lanes = self._compiled[shape], *self._tables_of(plan)
        moving, settings = self._sampling
        arguments = (self._params, self._cache, batch, moving, settings, taps, lanes)
        self._cache, output = step(*arguments)
        self._sampling = output.sampling, settings
        return output

    def expect(self, taps: Taps) -> None:
        """Adapters of requests that wait: programs are made for them at once."""
        self._tapped.expect(taps)

    def forget(self, sequence: Sequence) -> None:
        """Drop what a sequence has in host memory; nothing happens where it has nothing."""
        self._swapped.pop(sequence, None)

    def refresh(self, sequence: Sequence) -> None:
        """Bring the device's account of a running sequence up to its changed tokens and pages."""
        if sequence.slot is not None:
            self._admit((sequence,))

    @property
    def swapped_bytes(self) -> int:
        """Host memory that swapped pages fill."""
        return sum(pages.nbytes for pages in self._swapped.values())

    def warm_up(self, shapes: tuple[StepShape, ...] | None = None) -> None:
        wanted = {s for s in (shapes or self.shapes) if s not in self._compiled}
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(self._compile, wanted))
        if shapes is None:
            self._cache = warm_up_transfers(self._cache)

    def memory_analysis(self, shape: StepShape) -> Any:
        """The compiler's account of a shape's memory (arguments, outputs, aliases, temporaries)."""
        step = self._compiled.get(shape) or self._compile(shape)
        return step.memory_analysis()  # type: ignore[attr-defined]

    def _following(self, schedule: Schedule, shape: StepShape) -> tuple[StepShape, ...]:
        """The decode shape that a schedule leads to: compiled beside its own, in parallel."""
        rows = sum(chunk.samples for chunk in schedule.chunks)
        following = [
            s
            for s in self.shapes
            if s.decodes
            and s.rows >= rows > 0
            and (s.processes, s.drafts) == (shape.processes, self._draft_len)
        ]
        return tuple(replace(s, plan=shape.plan) for s in following[:1])

    def _compile(self, shape: StepShape) -> Callable[..., Any]:
        start = time.monotonic()
        batch = self._batch(Schedule(chunks=()), shape)
        tables = self._tables_of(shape.plan)
        arguments = (self._params, self._cache, batch, *self._sampling, *tables)
        structs = jax.tree_util.tree_map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments
        )
        # A function of its own, so that its program goes when this executor goes: jax keeps what it
        # compiled for as long as there is the function.
        run = partial(self._step, config=self._config, shape=shape, bind=self._bind)
        function = partial(_run_split, run)
        lowered = jax.jit(function, donate_argnums=(1, 3)).lower(*structs)
        few_rows = shape.decodes or self._step is run_tiled_step
        options = self._decode_options if few_rows else None
        self._compiled[shape] = lowered.compile(compiler_options=options)
        self._seconds[shape] = time.monotonic() - start
        return self._compiled[shape]

    def _tables_of(self, plan: TapPlan) -> tuple[Taps, tuple[ProcessorLane, ...]]:
        return self._tapped.tables(plan), self._tapped.lanes(plan)

    def _move_pages(self, schedule: Schedule) -> None:
        """What goes out is read first, then shared pages are copied, then what comes in written."""
        for pages in self._swapped.values():
            pages.settle()
        for sequence, pages in schedule.swapped_out:
            self._swapped[sequence] = read_pages(self._cache, pages)
        if schedule.copies:
            pairs = [(old, new) for _, old, new in schedule.copies]
            self._cache = copy_pages(self._cache, pairs)
            for sequence, _, _ in schedule.copies:
                self._num_written[_slot(sequence)] = 0
        for sequence, pages in schedule.swapped_in:
            self._cache = write_pages(self._cache, pages, self._swapped.pop(sequence))

    def _admit(self, sequences: tuple[Sequence, ...]) -> None:
        """Write the state of sequences that were given a slot."""
        for first in range(0, len(sequences), ADMITTED_AT_ONCE):
            group = sequences[first : first + ADMITTED_AT_ONCE]
            for sequence in group:
                request = sequence.request
                processors = request.params.logits_processors
                self._tapped.put(_slot(sequence), request.taps, processors)
                self._tables[_slot(sequence)] = 0
                self._num_written[_slot(sequence)] = 0
            slots, rows = slot_rows(
                [_slot_update(sequence) for sequence in group],
                num_slots=self._padding_slot,
                max_len=self._max_model_len,
                vocab_size=self._config.vocab_size,
                draft_len=self._draft_len,
                width=ADMITTED_AT_ONCE,
            )
            state = _write_slots(join_state(*self._sampling), slots, rows)
            self._sampling = split_state(state)

    def _restrict(self, guided: list[Sequence]) -> None:
        """Tell the device what guided sequences may sample now."""
        if not guided:
            return
        masks = self._guides.masks(guided, 1 + self._draft_len)
        slots = np.asarray([_slot(sequence) for sequence in guided], np.int32)
        lengths = np.asarray([len(sequence.token_ids) for sequence in guided], np.int32)
        moving, settings = self._sampling
        for first in range(0, len(slots), ADMITTED_AT_ONCE):
            # What is left over is filled up with the last row again: nothing else is written.
            index = np.minimum(np.arange(first, first + ADMITTED_AT_ONCE), len(slots) - 1)
            settings = _write_masks(settings, slots[index], masks[index], lengths[index])
        self._sampling = moving, settings

    def _write_table(self, sequence: Sequence) -> None:
        """Bring a slot's row of the block tables up to date, from the first page that is new."""
        slot, pages = _slot(sequence), sequence.blocks.pages
        written = self._num_written[slot]
        if len(pages) > written:
            self._tables[slot, written : len(pages)] = pages[written:]
            self._num_written[slot] = len(pages)

    def _batch(self, schedule: Schedule, shape: StepShape) -> StepBatch:
        """The host's part of a step, padded to its shape."""
        slots = np.full(shape.rows, self._padding_slot, np.int32)
        lengths = np.zeros(shape.rows, np.int32)
        contexts = np.zeros(shape.rows, np.int32)
        samples = np.zeros(shape.rows, bool)
        drafts = np.zeros((shape.rows, shape.drafts), np.int32)
        num_drafts = np.zeros(shape.rows, np.int32)
        for row, chunk in enumerate(schedule.chunks):
            sequence = chunk.sequence
            self._write_table(sequence)
            slots[row] = _slot(sequence)
            lengths[row] = chunk.length
            contexts[row] = chunk.start + chunk.length
            samples[row] = chunk.samples
            num_drafts[row] = len(chunk.draft)
            drafts[row, : len(chunk.draft)] = chunk.draft
        starts = np.zeros(shape.rows + 1, np.int32)
        np.cumsum(lengths, out=starts[1:])
        # numpy arrays: the compiled step moves them to the device itself.
        arrays: dict[str, Any] = {
            "slots": slots,
            "query_starts": starts,
            "context_lens": contexts,
            "samples": samples,
            "block_tables": self._tables[slots],
        }
        if shape.drafts:
            arrays |= {"drafts": drafts, "num_drafts": num_drafts}
        return StepBatch(**arrays)


def _run_split(
    run: Callable[..., tuple[KVCache, StepOutput]],
    params: Params,
    cache: KVCache,
    batch: StepBatch,
    moving: SamplingState,
    settings: SamplingState,
    *tables: Any,
) -> tuple[KVCache, StepOutput]:
    """A step that returns of the sampling state what it changes: the rest stays where it is."""
    cache, output = run(params, cache, batch, join_state(moving, settings), *tables)
    return cache, replace(output, sampling=split_state(output.sampling)[0])


def _slot(sequence: Sequence) -> int:
    if sequence.slot is None:
        raise SchedulerError(
            f"a sequence that is {sequence.state} was scheduled and has no slot; only running "
            "sequences are scheduled"
        )
    return sequence.slot


def _slot_update(sequence: Sequence) -> SlotUpdate:
    return SlotUpdate(
        slot=_slot(sequence),
        tokens=sequence.token_ids,
        prompt_len=sequence.prompt_len,
        params=sequence.request.params,
        key=sequence_key(sequence.seed, sequence.index),
        bad_word_ids=sequence.request.bad_word_ids,
        end_ids=sequence.request.end_ids,
        mirostat_mu=sequence.mirostat_mus[-1] if sequence.mirostat_mus else None,
    )


def _is_guided(chunk: ScheduledChunk) -> bool:
    return chunk.sequence.request.params.guided is not None


def _processes(chunk: ScheduledChunk) -> bool:
    """Whether the chunk's sampling, or the logprobs of its prompt, take more than a temperature."""
    params = chunk.sequence.request.params
    processed = params.prompt_logprobs is not None and params.logprobs_mode == "processed"
    return (chunk.samples or processed) and processes_logits(params)


def _scores(chunk: ScheduledChunk) -> bool:
    """Whether the chunk holds a position whose successor is a prompt token to be scored."""
    request, end = chunk.sequence.request, chunk.start + chunk.length
    return (
        request.params.prompt_logprobs is not None
        and request.score_from <= end
        and chunk.start + 1 < len(request.prompt_token_ids)
    )
