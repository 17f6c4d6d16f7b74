"""Edits of many requests in one program: the same kinds of edit lie side by side as tables.

A request's edits at a site are a sequence of *kinds* (an edit without its values). A step's program
has *lanes*: per site a sequence of kinds that contains that of every request of the step. Each
request puts its values into its row of its lanes; where a request has none, the lane does nothing
for it. So 64 requests that each ablate another head share one lane, and one program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ferrum_jax.types import Edit, ProcessorLane, TapPlan, Taps

Kind = tuple[Any, tuple[tuple[tuple[int, ...], str], ...]]
"""The tree structure of an edit, and the shape and dtype of a row of each array."""


def plan_of(taps: Taps | None, processors: Sequence[Partial] = ()) -> TapPlan:
    """What a program needs to run these taps and logits processors alone."""
    taps = Taps() if taps is None else taps
    lanes = tuple(
        (site, tuple(_kind(edit) for edit in edits))
        for site, edits in sorted(taps.edits.items())
        if edits
    )
    return TapPlan(
        capture=tuple(sorted(taps.capture)),
        layers=taps.layers if taps.capture else None,
        lanes=lanes,
        adapters=() if taps.adapters is None else (taps.adapters.digest,),
        processors=tuple(processor_kind(processor) for processor in processors),
    )


def merge_plans(plans: Iterable[TapPlan]) -> TapPlan:
    """A plan that serves every one of several; the same for any order of them."""
    ordered = sorted(set(plans), key=repr)
    lanes: dict[str, list[Kind]] = {}
    for plan in ordered:
        for site, kinds in plan.lanes:
            lanes[site] = _supersequence(lanes.get(site, []), kinds)
    processors: list[Kind] = []
    for plan in ordered:
        processors = _supersequence(processors, plan.processors)
    captures = [plan for plan in ordered if plan.capture]
    layers: set[int] | None = set()
    for plan in captures:
        layers = None if layers is None or plan.layers is None else layers | set(plan.layers)
    return TapPlan(
        capture=tuple(sorted({site for plan in captures for site in plan.capture})),
        layers=None if layers is None or not captures else tuple(sorted(layers)),
        lanes=tuple((site, tuple(kinds)) for site, kinds in sorted(lanes.items())),
        adapters=tuple(sorted({digest for plan in ordered for digest in plan.adapters})),
        processors=tuple(processors),
    )


def serves(plan: TapPlan, other: TapPlan) -> bool:
    """Whether a program of `plan` captures what `other` does and can run all else that it has."""
    lanes = dict(plan.lanes)
    return (
        (plan.capture, plan.layers) == (other.capture, other.layers)
        and set(other.adapters) <= set(plan.adapters)
        and _embedding(plan.processors, other.processors) is not None
        and all(_embedding(lanes.get(site, ()), kinds) is not None for site, kinds in other.lanes)
    )


def stack_taps(plan: TapPlan, rows: Mapping[int, Taps], num_rows: int) -> Taps:
    """The taps of many requests as one: every array a table of `num_rows` rows.

    Rows that are not named act nowhere.
    """
    edits: dict[str, tuple[Edit, ...]] = {}
    for site, kinds in plan.lanes:
        taken: list[dict[int, Edit]] = [{} for _ in kinds]
        for row, taps in rows.items():
            mine = taps.edits.get(site, ())
            lanes = _embedding(kinds, tuple(_kind(edit) for edit in mine))
            if lanes is None:
                continue  # another program's request: its row does nothing here
            for lane, edit in zip(lanes, mine, strict=True):
                taken[lane][row] = edit
        edits[site] = tuple(
            _table(kind, lane, num_rows) for kind, lane in zip(kinds, taken, strict=True)
        )
    return Taps(capture=plan.capture, layers=plan.layers, edits=edits)


def stack_processors(
    plan: TapPlan, rows: Mapping[int, Sequence[Partial]], num_rows: int
) -> tuple[ProcessorLane, ...]:
    """The logits processors of many requests as lanes, whose arrays are tables of `num_rows`."""
    taken: list[dict[int, Partial]] = [{} for _ in plan.processors]
    for row, mine in rows.items():
        at = _embedding(plan.processors, tuple(map(processor_kind, mine)))
        if at is None:
            continue  # another program's request
        for lane, processor in zip(at, mine, strict=True):
            taken[lane][row] = processor
    lanes = []
    for (structure, shapes), processors in zip(plan.processors, taken, strict=True):
        tables = [np.zeros((num_rows, *shape), dtype) for shape, dtype in shapes]
        used = np.zeros(num_rows, bool)
        for row, processor in processors.items():
            used[row] = True
            for table, leaf in zip(tables, jax.tree.leaves(processor), strict=True):
                table[row] = np.asarray(leaf)
        arrays = [jnp.asarray(table) for table in tables]
        lanes.append(ProcessorLane(jax.tree.unflatten(structure, arrays), jnp.asarray(used)))
    return tuple(lanes)


def processor_kind(processor: Partial) -> Kind:
    """A processor without its values."""
    leaves, structure = jax.tree.flatten(processor)
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    return structure, tuple((tuple(x.shape), str(x.dtype)) for x in arrays)


def _kind(edit: Edit) -> Kind:
    leaves, structure = jax.tree.flatten(edit)
    return structure, tuple((tuple(x.shape[1:]), str(x.dtype)) for x in leaves)


def _supersequence(lanes: list[Kind], kinds: tuple[Kind, ...]) -> list[Kind]:
    """The lanes with what is missing put in, so that `kinds` can be found in them in order."""
    merged, at = list(lanes), 0
    for kind in kinds:
        if kind in merged[at:]:
            at = merged.index(kind, at) + 1
        else:
            merged.insert(at, kind)
            at += 1
    return merged


def _embedding(lanes: tuple[Kind, ...], kinds: tuple[Kind, ...]) -> list[int] | None:
    """Where the kinds lie among the lanes, in order; None if they do not."""
    found, at = [], 0
    for kind in kinds:
        if kind not in lanes[at:]:
            return None
        found.append(lanes.index(kind, at))
        at = found[-1] + 1
    return found


def _table(kind: Kind, rows: Mapping[int, Edit], num_rows: int) -> Edit:
    """One lane: zeros, whose spans of layers are empty, and the rows of those that use it."""
    structure, shapes = kind
    tables = [np.zeros((num_rows, *shape), dtype) for shape, dtype in shapes]
    for row, edit in rows.items():
        for table, leaf in zip(tables, jax.tree.leaves(edit), strict=True):
            table[row] = np.asarray(leaf)[0]
    return jax.tree.unflatten(structure, [jnp.asarray(table) for table in tables])
