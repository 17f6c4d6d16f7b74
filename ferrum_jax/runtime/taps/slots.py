"""Whose taps and logits processors run in which slot, and which program a step needs for them."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from typing import Any

import jax.numpy as jnp
import numpy as np

from ferrum_jax.runtime.taps.lanes import (
    merge_plans,
    plan_of,
    serves,
    stack_processors,
    stack_taps,
)
from ferrum_jax.types import (
    Adapters,
    ChunkColumns,
    ProcessorLane,
    Schedule,
    TapPlan,
    Taps,
    side_by_side,
)

NO_PLAN = TapPlan()
NO_TAPS = Taps()


class TappedSlots:
    """The taps and the logits processors of the running sequences, by slot.

    A step whose sequences have none runs the plain program. Otherwise one program serves them all,
    a known one where it can; or, `apart`, those with other kinds of taps run in programs of their
    own, one after another: then no bit of a request depends on what its neighbours' taps are.
    """

    def __init__(self, num_slots: int, *, apart: bool):
        self._num_slots, self._apart = num_slots, apart
        self._taps: dict[int, Taps] = {}
        self._plans: dict[int, TapPlan] = {}
        self._known: list[TapPlan] = []
        self._processors: dict[int, tuple[Any, ...]] = {}
        self._tables: dict[TapPlan, Taps] = {NO_PLAN: NO_TAPS}
        self._lanes: dict[TapPlan, tuple[ProcessorLane, ...]] = {NO_PLAN: ()}
        self._adapters: dict[str, Adapters] = {}
        self._joined: dict[tuple[str, ...], Adapters] = {}

    def expect(self, taps: Taps) -> None:
        """Note an adapter, for every program that is made from now on."""
        if taps.adapters is not None:
            self._adapters.setdefault(taps.adapters.digest, taps.adapters)

    def put(self, slot: int, taps: Taps | None, processors: tuple[Any, ...] = ()) -> None:
        """A slot has a new owner."""
        plan = NO_PLAN if taps is None and not processors else plan_of(taps, processors)
        before = self._plans.pop(slot, NO_PLAN)
        self._taps.pop(slot, None)
        self._processors.pop(slot, None)
        if plan:
            self._plans[slot] = plan
        if taps is not None and plan:
            self._taps[slot] = taps
            self.expect(taps)
        if processors:
            self._processors[slot] = processors
        if before.processors or processors:
            self._lanes = {NO_PLAN: ()}
        if before.lanes or plan.lanes or before.adapters or plan.adapters:
            self._tables = {NO_PLAN: NO_TAPS}

    def split(self, schedule: Schedule) -> tuple[tuple[Schedule, TapPlan], ...]:
        """The schedule with its plan; `apart`, as many parts as there are plans in it."""
        if not self._plans:
            return ((schedule, NO_PLAN),)
        slots = [sequence.slot for sequence in schedule.columns.sequences]
        plans = [NO_PLAN if slot is None else self._plans.get(slot, NO_PLAN) for slot in slots]
        if not self._apart:
            return ((schedule, self._serving(set(plans))),)
        return tuple(
            (
                replace(
                    schedule,
                    columns=ChunkColumns.of(
                        compress(schedule.chunks, [its == plan for its in plans])
                    ),
                ),
                plan,
            )
            for plan in dict.fromkeys(plans)
        )

    def tables(self, plan: TapPlan) -> Taps:
        """Everybody's values as one `Taps`, a row per slot."""
        if plan not in self._tables:
            taps = stack_taps(plan, self._taps, self._num_slots)
            if plan.adapters:
                taps = replace(taps, adapters=self._side_by_side(plan.adapters))
            self._tables[plan] = taps
        return self._tables[plan]

    def lanes(self, plan: TapPlan) -> tuple[ProcessorLane, ...]:
        """Everybody's logits processors, a row per slot."""
        if plan not in self._lanes:
            self._lanes[plan] = stack_processors(plan, self._processors, self._num_slots)
        return self._lanes[plan]

    def _side_by_side(self, digests: tuple[str, ...]) -> Adapters:
        """The adapters of a plan, and which slot uses which; joined once for each set of them."""
        weights = np.zeros((self._num_slots, len(digests)), np.float32)
        for slot, taps in self._taps.items():
            if taps.adapters is not None and taps.adapters.digest in digests:
                weights[slot, digests.index(taps.adapters.digest)] = 1.0
        if digests not in self._joined:
            parts = tuple(self._adapters[digest] for digest in digests)
            self._joined[digests] = side_by_side(parts, weights)
        return replace(self._joined[digests], weights=jnp.asarray(weights))

    def _serving(self, plans: set[TapPlan]) -> TapPlan:
        """The smallest known plan that serves all of these, or a new one."""
        wanted = merge_plans(plans)
        if not wanted:
            return NO_PLAN
        if wanted.adapters:
            # All that were seen: so the programs grow with their number, not with that of their
            # combinations.
            wanted = replace(wanted, adapters=tuple(sorted(self._adapters)))
        # Each by itself: their merger may put the lanes in another order than a known plan has.
        each = [replace(plan, capture=wanted.capture, layers=wanted.layers) for plan in plans]
        fitting = [known for known in self._known if all(serves(known, plan) for plan in each)]
        if not fitting:
            self._known.append(wanted)
            return wanted
        return min(fitting, key=_size)


def _size(plan: TapPlan) -> int:
    """How many edits, adapters and processors a program has."""
    return len(plan.adapters) + len(plan.processors) + sum(len(kinds) for _, kinds in plan.lanes)
