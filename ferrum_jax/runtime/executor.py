"""Runs schedules: owns the weights, the cache and the sampling state on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from ferrum_jax.attention import choose_attention
from ferrum_jax.kv import make_cache
from ferrum_jax.models import Params
from ferrum_jax.models.outputs_first import MOST_ROWS
from ferrum_jax.runtime.batches import BatchMaker, slot_of, slot_update
from ferrum_jax.runtime.decode_loop import run_decode_steps
from ferrum_jax.runtime.devices import decode_compiler_options
from ferrum_jax.runtime.guides import Guides
from ferrum_jax.runtime.mesh import cache_on, placement_of, results_on, struct_on
from ferrum_jax.runtime.programs import Programs, Recipe
from ferrum_jax.runtime.shapes import choose_shape, declared_shapes
from ferrum_jax.runtime.special import SpecialSlots
from ferrum_jax.runtime.speculation.model import AT_ONCE, DraftModel
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
    join_state,
    make_sampling_state,
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
        few_rows_params: Params | None = None,
        draft: tuple[ModelConfig, Params] | None = None,
    ):
        """Args:
        few_rows_params: the same weights laid out for steps of few rows.
        draft: a model that drafts, with its weights.
        """
        self._guides = guides
        self._config = config
        self._placement = placement = placement_of(engine, config)
        self._params = params if placement is None else placement.for_steps(params)
        self._few_rows_params = self._params if few_rows_params is None else few_rows_params
        self._bind = choose_attention(
            engine.attention, device, config, kv, num_devices=engine.num_devices
        )
        self._decode_options = decode_compiler_options(device.platform)
        self.shapes = declared_shapes(engine)
        self._programs = Programs(self._recipe)
        self._padding_slot = engine.max_num_seqs
        self._special = SpecialSlots()
        self._max_model_len = max_model_len
        self._batches = BatchMaker(
            engine.max_num_seqs, -(-max_model_len // kv.page_size), kv.page_size
        )
        self._kv = kv
        self._draft_len = engine.draft_len
        self._tapped = TappedSlots(self._padding_slot + 1, apart=engine.batch_invariant)
        self._draft_model = None
        if draft is not None:
            bind = choose_attention(engine.attention, device, draft[0], kv)
            self._draft_model = DraftModel(
                *draft, kv, bind, vocab_size=config.vocab_size, draft_len=engine.draft_len
            )
        self.reset()
        self._step = run_tiled_step if engine.batch_invariant else run_step
        self.num_steps = 0

    def reset(self) -> None:
        """An empty cache and neutral slots, as at the start; what was running is lost."""
        self._swapped: dict[Sequence, SwappedPages] = {}
        make = partial(make_cache, self._config, self._kv, num_slots=self._padding_slot)
        self._cache = cache_on(self._placement, make)
        state = make_sampling_state(
            self._padding_slot,
            self._max_model_len,
            self._config.vocab_size,
            draft_len=self._draft_len,
        )
        if self._placement is not None:
            state = self._placement.put_replicated(state)
        self._sampling = split_state(state)
        self._drafted: dict[Sequence, int] = {}
        if self._draft_model is not None:
            self._draft_model.reset()

    @property
    def vocab_size(self) -> int:
        return self._config.vocab_size

    @property
    def cache(self) -> KVCache:
        """The cache as the last dispatched step leaves it; the next step consumes it."""
        return self._cache

    @property
    def compilations(self) -> dict[StepShape, float]:
        seconds = self._programs.seconds
        if self._draft_model is not None:
            for (_, shape), more in self._draft_model.seconds.items():
                seconds[shape] = seconds.get(shape, 0.0) + more
        return seconds

    def execute(self, schedule: Schedule) -> tuple[tuple[Schedule, StepOutput], ...]:
        self._move_pages(schedule)
        self._admit(schedule.admitted)
        if not schedule.num_rows:
            return ()
        self.num_steps += 1
        self._restrict(self._special.guided(schedule))
        parts = self._tapped.split(schedule)
        outputs = tuple((part, self._run(part, plan)) for part, plan in parts)
        self._drafted = {}
        return outputs

    def draft(self, wanted: Mapping[Sequence, int]) -> list[list[int]]:
        """Let the draft model draft up to so many tokens for each sequence.

        All their tokens are known and all but the last have run; there are pages for the drafts.
        """
        assert self._draft_model is not None
        schedule = Schedule.of(
            ScheduledChunk(s, len(s.token_ids) - AT_ONCE, AT_ONCE, True) for s in wanted
        )
        rows = min(shape.rows for shape in self.shapes if shape.rows >= len(wanted))
        shape = _drafting_shape(rows, self._special.process(schedule))
        count = max(wanted.values())
        batch = self._batches.make(schedule, shape, ahead=count)
        moving, settings = self._sampling
        moving, drafts = self._draft_model.draft(batch, moving, settings, shape, count)
        self._sampling = moving, settings
        self._drafted = {sequence: len(sequence.token_ids) for sequence in wanted}
        return np.asarray(drafts)[: len(wanted)].tolist()

    def _run(self, schedule: Schedule, plan: TapPlan) -> StepOutput:
        score, processes = self._special.score(schedule), self._special.process(schedule)
        shape = choose_shape(self.shapes, schedule, score=score, processes=processes)
        if plan:
            shape = replace(shape, plan=plan)
        batch = self._batches.make(schedule, shape)
        step = self._programs.of(shape, partial(self._following, schedule, shape))
        taps, lanes = self._tables_of(plan)
        moving, settings = self._sampling
        params = self._params_for(shape)
        arguments = (params, self._cache, batch, moving, settings, taps, lanes)
        self._cache, output = step(*arguments)
        self._sampling = output.sampling, settings
        if self._draft_model is not None and not all(map(self._was_drafted, schedule.chunks)):
            self._draft_model.follow(batch, output.sampling.history, shape)
        return output

    def _was_drafted(self, chunk: ScheduledChunk) -> bool:
        """Whether the draft model has run the chunk's tokens already, to draft behind them."""
        return self._drafted.get(chunk.sequence) == chunk.start + 1

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
        self._programs.make(shapes or self.shapes)
        if shapes is None:
            self._put_layers(warm_up_transfers(self._all_layers()))
            self._warm_up_drafts()

    def _warm_up_drafts(self) -> None:
        if (model := self._draft_model) is None:
            return
        (moving, settings), none = self._sampling, Schedule.of()
        for shape in self.shapes:
            model.follow(self._batches.make(none, shape), moving.history, shape)
            rows = _drafting_shape(shape.rows, shape.processes)
            model.draft(self._batches.make(none, rows), moving, settings, rows, count=1)

    def memory_analysis(self, shape: StepShape) -> Any:
        """The compiler's account of a shape's memory (arguments, outputs, aliases, temporaries)."""
        return self._programs.of(shape).memory_analysis()  # type: ignore[attr-defined]

    def _following(self, schedule: Schedule, shape: StepShape) -> tuple[StepShape, ...]:
        """The decode shapes that a schedule leads to."""
        rows = sum(schedule.columns.samples)
        following = {
            s.steps: replace(s, plan=shape.plan)
            for s in reversed(self.shapes)
            if s.decodes
            and s.rows >= rows > 0
            and (s.steps == 1 or not shape.plan)
            and (s.processes, s.drafts) == (shape.processes, self._draft_len)
        }
        return tuple(following.values())

    def _recipe(self, shape: StepShape) -> Recipe:
        batch = self._batches.make(Schedule.of(), shape)
        tables = self._tables_of(shape.plan)
        arguments = (self._params_for(shape), self._cache, batch, *self._sampling, *tables)
        structs = jax.tree_util.tree_map(partial(struct_on, self._placement), arguments)
        # A function of its own, so that its program goes when this executor goes: jax keeps what it
        # compiled for as long as there is the function.
        step = run_decode_steps if shape.steps > 1 else self._step
        run = partial(step, config=self._config, shape=shape, bind=self._bind)
        placed = results_on(self._placement, self._cache)
        jitted = jax.jit(partial(_run_split, run), donate_argnums=(1, 3), **placed)
        small = shape.decodes or self._step is run_tiled_step
        options = self._decode_options if small else {}
        return Recipe(partial(jitted.lower, *structs), options)

    def _params_for(self, shape: StepShape) -> Params:
        return self._few_rows_params if shape.tokens <= MOST_ROWS else self._params

    def _tables_of(self, plan: TapPlan) -> tuple[Taps, tuple[ProcessorLane, ...]]:
        return self._tapped.tables(plan), self._tapped.lanes(plan)

    def _move_pages(self, schedule: Schedule) -> None:
        """What goes out is read first, then shared pages are copied, then what comes in written."""
        for pages in self._swapped.values():
            pages.settle()
        if not (schedule.swapped_out or schedule.copies or schedule.swapped_in):
            return
        cache = self._all_layers()
        for sequence, pages in schedule.swapped_out:
            self._swapped[sequence] = read_pages(cache, pages)
        if schedule.copies:
            pairs = [(old, new) for _, old, new in schedule.copies]
            cache = copy_pages(cache, pairs)
            for sequence, _, _ in schedule.copies:
                self._batches.renew(sequence)
        for sequence, pages in schedule.swapped_in:
            cache = write_pages(cache, pages, self._swapped.pop(sequence))
        self._put_layers(cache)

    def _all_layers(self) -> KVCache:
        """The cache with the layers of the draft model's behind its own."""
        if self._draft_model is None:
            return self._cache
        layers = (*self._cache.layers, *self._draft_model.cache.layers)
        return replace(self._cache, layers=layers)

    def _put_layers(self, cache: KVCache) -> None:
        """Each cache its own layers."""
        count = len(self._cache.layers)
        self._cache = replace(cache, layers=cache.layers[:count])
        if (model := self._draft_model) is not None:
            model.cache = replace(model.cache, layers=cache.layers[count:])

    def _admit(self, sequences: tuple[Sequence, ...]) -> None:
        """Write the state of sequences that were given a slot."""
        for first in range(0, len(sequences), ADMITTED_AT_ONCE):
            group = sequences[first : first + ADMITTED_AT_ONCE]
            for sequence in group:
                request = sequence.request
                processors = request.params.logits_processors
                self._tapped.put(slot_of(sequence), request.taps, processors)
                self._special.put(sequence)
                self._batches.admit(sequence)
            slots, rows = slot_rows(
                [slot_update(sequence) for sequence in group],
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
        slots = np.asarray([slot_of(sequence) for sequence in guided], np.int32)
        lengths = np.asarray([len(sequence.token_ids) for sequence in guided], np.int32)
        moving, settings = self._sampling
        for first in range(0, len(slots), ADMITTED_AT_ONCE):
            # What is left over is filled up with the last row again: nothing else is written.
            index = np.minimum(np.arange(first, first + ADMITTED_AT_ONCE), len(slots) - 1)
            settings = _write_masks(settings, slots[index], masks[index], lengths[index])
        self._sampling = moving, settings


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


def _drafting_shape(rows: int, processes: bool) -> StepShape:
    """The shape of what a draft model begins a draft with."""
    return StepShape(AT_ONCE * rows, rows, drafts=AT_ONCE - 1, processes=processes)
