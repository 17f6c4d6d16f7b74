"""Where edits act: positions and layers, in every form, as spans; or an error that says why."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.taps import acts_on
from ferrum_jax.research.edits import spans
from ferrum_jax.types import EVERYWHERE, Place

edits = fj.edits
ALL = [0, 0, EVERYWHERE, 0]


def placed(**options):
    """An edit with those layers or positions."""
    (edit,) = edits.scale("z", 2.0, **options).edits["z"]
    return edit


# Positions

POSITION_SPANS = {
    "all": (None, [ALL]),
    "prompt": ("prompt", [[0, 0, 0, 1]]),
    "generated": ("generated", [[0, 1, EVERYWHERE, 0]]),
    "index": (3, [[3, 0, 4, 0]]),
    "numpy": (np.int64(3), [[3, 0, 4, 0]]),
    "last": (-1, [[-1, 1, 0, 1]]),
    "from the end": (-3, [[-3, 1, -2, 1]]),
    "one": ([2], [[2, 0, 3, 0]]),
    "run": ([1, 2, 3], [[1, 0, 4, 0]]),
    "unsorted": ((3, 1, 2, 1), [[1, 0, 4, 0]]),
    "range": (range(2, 5), [[2, 0, 5, 0]]),
    "array": (np.array([4, 5]), [[4, 0, 6, 0]]),
    "set": ({7}, [[7, 0, 8, 0]]),
    "iterator": ((i for i in (0, 1)), [[0, 0, 2, 0]]),
    "gap": ([0, 1, 4], [[0, 0, 2, 0], [4, 0, 5, 0]]),
    "two gaps": ([0, 2, 4], [[0, 0, 1, 0], [2, 0, 3, 0], [4, 0, 5, 0], [0, 0, 0, 0]]),
    "five": ([0, 2, 4, 6, 8], [[i, 0, i + 1, 0] for i in (0, 2, 4, 6, 8)] + [[0] * 4] * 3),
    "negative run": ([-1, -2], [[-2, 1, 0, 1]]),
    "negative gap": ([-4, -1], [[-4, 1, -3, 1], [-1, 1, 0, 1]]),
    "both ends": ([0, -1], [[-1, 1, 0, 1], [0, 0, 1, 0]]),
    "around zero": ([-1, 0, 1], [[-1, 1, 0, 1], [0, 0, 2, 0]]),
    "slice": (slice(2, 5), [[2, 0, 5, 0]]),
    "step of 1": (slice(2, 5, 1), [[2, 0, 5, 0]]),
    "open slice": (slice(2, None), [[2, 0, EVERYWHERE, 0]]),
    "head": (slice(None, 2), [[0, 0, 2, 0]]),
    "whole": (slice(None), [ALL]),
    "but the last": (slice(None, -1), [[0, 0, -1, 1]]),
    "last ones": (slice(-2, None), [[-2, 1, EVERYWHERE, 0]]),
    "mixed slice": (slice(1, -2), [[1, 0, -2, 1]]),
    "negative slice": (slice(-3, -1), [[-3, 1, -1, 1]]),
    "all generated": (edits.generated(), [[0, 1, EVERYWHERE, 0]]),
    "generated from": (edits.generated(2), [[2, 1, EVERYWHERE, 0]]),
    "generated between": (edits.generated(1, 4), [[1, 1, 4, 1]]),
    "generated up to": (edits.generated(stop=np.int32(2)), [[0, 1, 2, 1]]),
}


@pytest.mark.parametrize(("positions", "expected"), POSITION_SPANS.values(), ids=POSITION_SPANS)
def test_positions_become_spans(positions, expected):
    table = placed(positions=positions).positions
    assert table.dtype == np.int32
    assert table.tolist() == [expected]


LENGTH, TOTAL = 6, 9
"""Of a prompt, and of it with what was generated."""
EVERY = list(range(TOTAL))


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (None, EVERY),
        ("prompt", EVERY[:LENGTH]),
        ("generated", EVERY[LENGTH:]),
        (edits.generated(1), EVERY[LENGTH + 1 :]),
        (edits.generated(0, 2), EVERY[LENGTH : LENGTH + 2]),
        (-1, [LENGTH - 1]),
        ([-1, 0, 1, -4], [0, 1, 2, 5]),
        ([0, 3, 7, 20], [0, 3, 7]),
        (slice(-2, None), EVERY[LENGTH - 2 :]),
        (slice(-2, -1), [LENGTH - 2]),
        (slice(1, -2), EVERY[1 : LENGTH - 2]),
        (slice(-50, 2), EVERY[:2]),
    ],
)
def test_an_edit_acts_on_just_those_tokens(positions, expected):
    edit = placed(layers=[1, 3], positions=positions)
    place = Place(jnp.zeros(TOTAL, int), jnp.arange(TOTAL), jnp.full(TOTAL, LENGTH))
    for layer, here in enumerate([False, True, False, True, False]):
        acting = np.flatnonzero(acts_on(edit, place, layer)).tolist()
        assert acting == (expected if here else [])


WRONG_POSITIONS = {
    "name": ("prompts", "positions is 'prompts'; the names are 'prompt' and 'generated'"),
    "bool": (True, "positions is True; give integers"),
    "float": (1.5, "positions is 1.5; give integers"),
    "object": (object, "positions is .*object.*; give integers"),
    "empty": ([], "positions is empty; name at least one"),
    "float in a list": ([1, 2.0], "positions holds 2.0; give integers"),
    "mask": (np.array([True, False]), "positions holds .*True.*; give integers"),
    "nested": ([[1]], r"positions holds \[1\]; give integers"),
    "step": (slice(0, 4, 2), r"positions is slice\(0, 4, 2\); a slice takes no step"),
    "empty slice": (slice(4, 2), r"positions is slice\(4, 2, None\), which names no token"),
    "too large": (2**31 - 1, "positions holds 2147483647; numbers end below 2147483647"),
    "float slice": (slice(0.5, None), "positions holds 0.5; give integers"),
    "float stop": (slice(None, "a"), "positions holds 'a'; give integers"),
}


@pytest.mark.parametrize(("positions", "says"), WRONG_POSITIONS.values(), ids=WRONG_POSITIONS)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: edits.scale("z", 2.0, positions=p),
        lambda p: edits.steer(np.ones(3), 0, positions=p),
        lambda p: edits.ablate_heads([(0, 0)], positions=p),
        lambda p: edits.ablate_neurons([(0, 0)], positions=p),
        lambda p: edits.ablate_mlp(0, positions=p),
        lambda p: edits.ablate_layer(0, positions=p),
        lambda p: edits.force_router([0], positions=p),
        lambda p: edits.custom("z", jnp.tanh, positions=p),
    ],
)
def test_wrong_positions(make, positions, says):
    with pytest.raises(fj.RequestError, match=says):
        make(positions)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((-1,), r"generated\(-1, None\) names no token"),
        ((0, -2), r"generated\(0, -2\) names no token"),
        ((3, 3), r"generated\(3, 3\) names no token"),
        ((1.0,), r"the start of generated holds 1.0; give integers"),
        ((True,), "the start of generated holds True; give integers"),
        ((0, "4"), "the stop of generated holds '4'; give integers"),
    ],
)
def test_wrong_generated(arguments, says):
    with pytest.raises(fj.RequestError, match=says):
        edits.generated(*arguments)


# Layers

LAYER_SPANS = {
    "all": (None, [[0, EVERYWHERE]]),
    "one": (2, [[2, 3]]),
    "numpy": (np.int32(2), [[2, 3]]),
    "run": ([3, 1, 2], [[1, 4]]),
    "gap": ((0, 2), [[0, 1], [2, 3]]),
    "two gaps": ([0, 1, 3, 5, 6], [[0, 2], [3, 4], [5, 7], [0, 0]]),
    "range": (range(4), [[0, 4]]),
}


@pytest.mark.parametrize(("layers", "expected"), LAYER_SPANS.values(), ids=LAYER_SPANS)
def test_layers_become_spans(layers, expected):
    table = placed(layers=layers).layers
    assert table.dtype == np.int32
    assert table.tolist() == [expected]


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (-1, "layer -1 does not exist; layers count from 0"),
        ([0, -2], "layer -2 does not exist"),
        ([], "layers is empty; name at least one"),
        (True, "layers is True; give integers"),
        (1.0, "layers is 1.0; give integers"),
        ("1", "layers holds '1'; give integers"),
        ([1.5], "layers holds 1.5; give integers"),
        (slice(0, 2), r"layers is slice\(0, 2, None\); give integers"),
    ],
)
def test_wrong_layers(layers, says):
    for make in (edits.ablate_mlp, edits.ablate_layer, lambda i: edits.force_router([0], i)):
        with pytest.raises(fj.RequestError, match=says):
            make(layers)


@pytest.mark.parametrize(("count", "padded"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8)])
def test_counts_are_padded_to_powers_of_two(count, padded):
    assert spans.padded_size(count) == padded
