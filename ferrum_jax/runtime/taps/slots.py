"""Whose taps run in which slot, and which program a step needs for them."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.runtime.taps.lanes import merge_plans, plan_of, serves, stack_taps
from ferrum_jax.types import Schedule, TapPlan, Taps

NO_PLAN = TapPlan()
NO_TAPS = Taps()


class TappedSlots:
    """The taps of the running sequences, by slot.

    A step whose sequences have none runs the plain program. Otherwise one program serves them all,
    a known one where it can; or, `apart`, those with other kinds of taps run in programs of their
    own, one after another: then no bit of a request depends on what its neighbours' taps are.
    """

    def __init__(self, num_slots: int, *, apart: bool):
        self._num_slots, self._apart = num_slots, apart
        self._taps: dict[int, Taps] = {}
        self._plans: dict[int, TapPlan] = {}
        self._known: list[TapPlan] = []
        self._tables: dict[TapPlan, Taps] = {NO_PLAN: NO_TAPS}

    def put(self, slot: int, taps: Taps | None) -> None:
        """A slot has a new owner."""
        plan = NO_PLAN if taps is None else plan_of(taps)
        before = self._plans.pop(slot, NO_PLAN)
        self._taps.pop(slot, None)
        if taps is not None and plan:
            self._taps[slot], self._plans[slot] = taps, plan
        if before.lanes or plan.lanes:
            self._tables = {NO_PLAN: NO_TAPS}

    def split(self, schedule: Schedule) -> tuple[tuple[Schedule, TapPlan], ...]:
        """The schedule with its plan; `apart`, as many parts as there are plans in it."""
        if not self._plans:
            return ((schedule, NO_PLAN),)
        slots = [chunk.sequence.slot for chunk in schedule.chunks]
        plans = [NO_PLAN if slot is None else self._plans.get(slot, NO_PLAN) for slot in slots]
        if not self._apart:
            return ((schedule, self._serving(set(plans))),)
        return tuple(
            (
                replace(
                    schedule,
                    chunks=tuple(
                        chunk
                        for chunk, its in zip(schedule.chunks, plans, strict=True)
                        if its == plan
                    ),
                ),
                plan,
            )
            for plan in dict.fromkeys(plans)
        )

    def tables(self, plan: TapPlan) -> Taps:
        """Everybody's values as one `Taps`, a row per slot."""
        if plan not in self._tables:
            self._tables[plan] = stack_taps(plan, self._taps, self._num_slots)
        return self._tables[plan]

    def _serving(self, plans: set[TapPlan]) -> TapPlan:
        """The smallest known plan that serves all of these, or a new one."""
        wanted = merge_plans(plans)
        if not wanted:
            return NO_PLAN
        # Each by itself: their merger may put the lanes in another order than a known plan has.
        each = [replace(plan, capture=wanted.capture, layers=wanted.layers) for plan in plans]
        fitting = [known for known in self._known if all(serves(known, plan) for plan in each)]
        if not fitting:
            self._known.append(wanted)
            return wanted
        return min(fitting, key=lambda plan: sum(len(kinds) for _, kinds in plan.lanes))
