"""Edits of many requests as one: lanes that hold every request's edits in their order."""

from __future__ import annotations

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ferrum_jax as fj
from ferrum_jax.models.taps import TapRun, placed
from ferrum_jax.runtime.taps.lanes import merge_plans, plan_of, serves, stack_taps
from ferrum_jax.runtime.taps.slots import NO_PLAN, NO_TAPS, TappedSlots
from ferrum_jax.types import Place, Schedule, ScheduledChunk, TapPlan

edits = fj.edits
WIDTH = 6
X = np.random.default_rng(0).standard_normal((5, WIDTH)).astype(np.float32)


def add(value, positions=None):
    return edits.steer(np.full(WIDTH, value, np.float32), 0, positions=positions)


def double(value=2.0):
    return edits.scale("resid_post", value, layers=[0])


def neuron(*numbers):
    return edits.ablate_neurons([(0, n) for n in numbers])


KINDS = {
    "add": lambda rng: add(rng.uniform(1, 2)),
    "scale": lambda rng: double(rng.uniform(1, 2)),
    "mlp": lambda rng: edits.ablate_mlp(mean=rng.uniform(1, 2)),
    "neuron": lambda rng: neuron(rng.integers(WIDTH)),
    "two neurons": lambda rng: neuron(*rng.permutation(WIDTH)[:2]),
}
names = st.lists(st.sampled_from(list(KINDS)), max_size=4)


def taps_of(chosen, seed=0):
    rng = np.random.default_rng(seed)
    return sum((KINDS[name](rng) for name in chosen), fj.Taps())


def lanes(plan):
    return {site: len(kinds) for site, kinds in plan.lanes}


# Plans


def test_a_plan_has_no_values():
    assert plan_of(add(1.0)) == plan_of(add(2.0))
    assert hash(plan_of(neuron(3))) == hash(plan_of(neuron(5)))
    assert plan_of(neuron(0, 1, 2)) == plan_of(neuron(0, 1, 2, 3))
    different = [
        add(1.0),
        edits.steer(np.zeros(WIDTH + 1), 0),
        edits.steer(np.zeros(WIDTH), 0, site="attn_out"),
        add(1.0, positions=[0, 2]),
        double(),
        neuron(0),
        neuron(0, 1),
        add(1.0) + double(),
        double() + add(1.0),
        add(1.0) + add(1.0),
    ]
    assert len({plan_of(taps) for taps in different}) == len(different)


def test_a_plan_of_nothing():
    for taps in (fj.Taps(), fj.Taps(edits={"z": ()}), fj.Taps(layers=(1,))):
        assert plan_of(taps) == TapPlan()
        assert not plan_of(taps)
    assert merge_plans([]) == merge_plans([TapPlan()]) == TapPlan()


def test_sites_and_captures_are_in_one_order():
    a, b = fj.Taps(capture=("z", "q"), layers=(1,)), fj.Taps(capture=("q", "z"), layers=(1,))
    assert plan_of(a) == plan_of(b)
    x, y = add(1.0) + edits.ablate_mlp(0), edits.ablate_mlp(0) + add(1.0)
    assert plan_of(x) == plan_of(y)


def test_how_a_plan_reads():
    taps = add(1.0) + double() + edits.ablate_mlp() + fj.Taps(capture=("z",))
    assert str(plan_of(taps)) == "edits: 1 at mlp_out, 2 at resid_post; captures z"
    assert str(plan_of(add(1.0))) == "edits: 1 at resid_post"
    assert str(TapPlan()) == ""


@given(st.lists(names, min_size=1, max_size=4))
@settings(max_examples=40)
def test_a_merged_plan_serves_all_in_whatever_order_they_come(chosen):
    plans = [plan_of(taps_of(each)) for each in chosen]
    merged = merge_plans(plans)
    assert all(merge_plans(order) == merged for order in permutations(plans))
    assert all(serves(merged, plan) for plan in plans)
    assert merge_plans([merged, *plans]) == merged
    longest = max(sum(lanes(plan).values()) for plan in plans)
    assert longest <= sum(lanes(merged).values()) <= sum(sum(lanes(p).values()) for p in set(plans))


def test_64_of_a_kind_have_one_lane():
    assert lanes(merge_plans(plan_of(neuron(i % WIDTH)) for i in range(64))) == {"mlp_post": 1}
    both = merge_plans([plan_of(add(1.0)), plan_of(add(1.0) + add(2.0))])
    assert lanes(both) == {"resid_post": 2}


def test_what_a_plan_does_not_serve():
    ab, ba = plan_of(add(1.0) + double()), plan_of(double() + add(1.0))
    assert serves(ab, plan_of(add(1.0)))
    assert serves(ab, plan_of(double()))
    assert serves(ab, TapPlan())
    assert not serves(ab, ba)
    assert not serves(plan_of(add(1.0)), ab)
    assert not serves(plan_of(add(1.0)), plan_of(add(1.0) + add(1.0)))
    assert not serves(ab, plan_of(edits.ablate_mlp()))
    assert lanes(merge_plans([ab, ba])) == {"resid_post": 3}


def test_captures_are_joined():
    def plan(*sites, layers=None):
        return plan_of(fj.Taps(capture=sites, layers=layers))

    joined = merge_plans([plan("z", layers=(0, 2)), plan("q", layers=(1,)), plan_of(add(1.0))])
    assert (joined.capture, joined.layers) == (("q", "z"), (0, 1, 2))
    assert merge_plans([plan("z", layers=(0,)), plan("z")]).layers is None
    assert merge_plans([plan("z"), plan("z", layers=(0,))]).layers is None
    assert not serves(plan("z"), plan("z", layers=(0,)))
    assert not serves(plan("q", "z"), plan("z"))
    assert not serves(plan_of(add(1.0)), plan("z"))
    assert serves(joined, plan_of(add(1.0) + fj.Taps(capture=("q", "z"), layers=(0, 1, 2))))


# Values


def edited(taps, x, site, rows, layer=0):
    index = jnp.arange(len(x))
    place = Place(jnp.asarray(rows), index, jnp.full(len(x), len(x)))
    return np.asarray(TapRun(taps.replace(place=place))(site, jnp.asarray(x), layer))


@given(st.lists(names, min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=25)
def test_in_a_table_each_row_acts_as_it_does_alone(chosen, seed):
    mine = {2 * i: taps_of(each, seed + i) for i, each in enumerate(chosen)}
    plan = merge_plans(plan_of(taps) for taps in mine.values())
    table = stack_taps(plan, mine, num_rows=7)
    assert all(leaf.shape[0] == 7 for leaf in jax.tree.leaves(table))
    for site, _ in plan.lanes:
        rows = [0, 2, 4, 5, 0]
        together = edited(table, X, site, rows)
        for token, row in enumerate(rows):
            alone = TapRun(placed(mine.get(row, fj.Taps()), jnp.arange(5)))
            expected = alone(site, jnp.asarray(X), 0)[token]
            np.testing.assert_allclose(together[token], expected, rtol=1e-6)


def test_a_row_of_another_program_acts_nowhere():
    plan = plan_of(add(1.0))
    table = stack_taps(plan, {0: add(1.0), 1: double() + add(5.0), 2: neuron(1)}, num_rows=4)
    together = edited(table, X[:4], "resid_post", range(4))
    np.testing.assert_array_equal(together, [X[0] + 1, *X[1:4]])


def test_tables_keep_the_types_of_their_values():
    taps = edits.custom("resid_post", jnp.add, jnp.ones(WIDTH, jnp.bfloat16), np.int32(3))
    (edit,) = stack_taps(plan_of(taps), {1: taps}, 2).edits["resid_post"]
    assert [str(value.dtype) for value in edit.values] == ["bfloat16", "float32"]
    assert edit.layers.tolist() == [[[0, 0]], [[0, 2**31 - 1]]]


# Slots


class Slotted:
    """What `split` reads of a sequence."""

    def __init__(self, slot):
        self.slot = slot


def schedule(*slots):
    return Schedule.of(tuple(ScheduledChunk(Slotted(slot), 0, 1, True) for slot in slots))


def acting(slots, plan):
    """In which slots an edit of a plan's tables acts."""
    (edit,) = slots.tables(plan).edits["resid_post"]
    return np.flatnonzero((edit.layers[:, :, 1] > edit.layers[:, :, 0]).any(axis=1)).tolist()


@pytest.mark.parametrize("after", [None, fj.Taps(), fj.Taps(capture=("z",))])
def test_a_slot_forgets_its_last_owner(after):
    slots = TappedSlots(4, apart=False)
    slots.put(0, add(1.0))
    slots.put(2, add(2.0))
    ((_, plan),) = slots.split(schedule(0, 2))
    assert acting(slots, plan) == [0, 2]
    slots.put(0, after)
    assert acting(slots, plan) == [2]
    slots.put(2, None)
    assert acting(slots, plan) == []


def test_steps_without_taps_run_the_plain_program():
    slots = TappedSlots(4, apart=False)
    slots.put(1, add(1.0))
    ((part, plan),) = slots.split(schedule(0, 3))
    assert plan is NO_PLAN or plan == NO_PLAN
    assert slots.tables(plan) == NO_TAPS
    assert len(part.chunks) == 2
    slots.put(1, None)
    assert slots.split(schedule(1))[0][1] == NO_PLAN


def test_a_known_program_serves_what_it_can():
    slots = TappedSlots(4, apart=False)
    for slot, taps in enumerate((add(1.0), double(), neuron(0))):
        slots.put(slot, taps)
    ((_, large),) = slots.split(schedule(0, 1, 2))
    assert slots.split(schedule(1, 3))[0][1] == large
    assert slots.split(schedule(2))[0][1] == large
    slots.put(3, edits.ablate_mlp())
    ((_, other),) = slots.split(schedule(3, 0))
    assert lanes(other) == {"mlp_out": 1, "resid_post": 1}
    assert slots.split(schedule(0))[0][1] == other


@pytest.mark.parametrize("order", list(permutations(["add", "scale", "tanh"])))
def test_a_known_program_serves_parts_of_it_side_by_side(order):
    """Whichever way their merger would order them."""
    parts = {
        "add": add(1.0),
        "scale": double(),
        "tanh": edits.custom("resid_post", jnp.tanh, layers=0),
    }
    first, second, third = (parts[name] for name in order)
    slots = TappedSlots(4, apart=False)
    slots.put(0, first + second + third)
    ((_, whole),) = slots.split(schedule(0))
    slots.put(1, first + third)
    slots.put(2, second)
    assert slots.split(schedule(1, 2))[0][1] == whole


def test_apart_every_plan_runs_for_itself():
    slots = TappedSlots(5, apart=True)
    for slot, taps in enumerate((add(1.0), None, add(2.0), double())):
        slots.put(slot, taps)
    parts = slots.split(schedule(3, 0, 1, 2, 4))
    found = {plan: [c.sequence.slot for c in part.chunks] for part, plan in parts}
    assert found == {
        plan_of(double()): [3],
        plan_of(add(0.0)): [0, 2],
        NO_PLAN: [1, 4],
    }
