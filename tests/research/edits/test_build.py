"""What the arguments of `fj.edits` become: padded tables of data, or an error that says why."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.taps import TapRun, placed
from ferrum_jax.research.edits import operations
from ferrum_jax.types import EVERYWHERE, SITES

edits = fj.edits
ALL = [0, 0, EVERYWHERE, 0]
NOWHERE = [-(2**30), 0]
"""A padded position: before every sequence, whatever its length."""
X = np.arange(12, dtype=np.float32).reshape(3, 4)
"""Activations of three tokens."""


def only(taps, site):
    """The single edit of taps that have no other."""
    assert list(taps.edits) == [site]
    (edit,) = taps.edits[site]
    return edit


# Each edit


def test_units_are_padded_in_the_order_given():
    edit = only(edits.ablate_heads([(4, 1), (0, 3), (4, 0)]), "z")
    assert edit.operation == operations.SetUnits("head")
    assert edit.values["constants"] is None
    assert edit.values["units"].dtype == np.int32
    assert edit.values["units"].tolist() == [[[4, 1], [0, 3], [4, 0], [-(2**30)] * 2]]
    assert edit.layers.tolist() == [[[0, 1], [4, 5]]]
    assert edit.positions.tolist() == [[ALL]]
    neurons = only(edits.ablate_neurons([(2, 9)], positions=-1), "mlp_post")
    assert neurons.operation == operations.SetUnits("neuron")
    assert neurons.values["units"].tolist() == [[[2, 9]]]
    assert neurons.positions.tolist() == [[[-1, 1, 0, 1]]]


def test_means_are_those_of_the_units():
    of_layer = {0: X, 2: 10 + X}  # [heads, H]
    units = [(2, 1), (0, 2), (0, 0)]
    expected = [10 + X[1], X[2], X[0], np.zeros(4)]
    for mean in (of_layer, np.stack(expected[:3])):
        edit = only(edits.ablate_heads(units, mean=mean), "z")
        np.testing.assert_array_equal(edit.values["constants"], [expected])
    edit = only(edits.ablate_neurons([(1, 2), (1, 0)], mean={1: [7, 8, 9]}), "mlp_post")
    assert edit.values["constants"].tolist() == [[9, 7]]


def test_samples_are_those_of_the_units():
    z = np.arange(5 * 3 * 2, dtype=np.float32).reshape(5, 3, 2)  # [M, heads, H]
    edit = only(edits.ablate_heads([(1, 2), (0, 1), (1, 0)], resample={0: z, 1: -z}, seed=7), "z")
    assert edit.operation == operations.DrawUnits("head")
    samples = edit.values["samples"]
    assert samples.shape == (1, 4, 8, 2)
    np.testing.assert_array_equal(samples[0, :3, :5], [-z[:, 2], z[:, 1], -z[:, 0]])
    assert not samples[0, 3].any()
    assert not samples[0, :, 5:].any()
    assert edit.values["count"].tolist() == [5]
    assert edit.values["seed"].tolist() == [7]


def test_whole_blocks():
    edit = only(edits.ablate_mlp(mean=X[0]), "mlp_out")
    assert edit.operation == operations.Fill()
    np.testing.assert_array_equal(edit.values["constant"], X[:1])
    assert edit.layers.tolist() == [[[0, EVERYWHERE]]]
    taps = edits.ablate_layer([1, 2], positions="prompt")
    edit = only(taps, "resid_post")
    assert edit.operation == operations.Skip()
    assert edit.layers.tolist() == [[[1, 3]]]
    assert edit.positions.tolist() == [[[0, 0, 0, 1]]]


def test_changes():
    edit = only(edits.steer(X[1], [1, 3], -2, slice(2, None), site="attn_out"), "attn_out")
    assert edit.operation == operations.Add()
    np.testing.assert_array_equal(edit.values["vector"], X[1:2])
    assert edit.values["scale"].tolist() == [-2]
    assert edit.layers.tolist() == [[[1, 2], [3, 4]]]
    assert edit.positions.tolist() == [[[2, 0, EVERYWHERE, 0]]]
    assert only(edits.scale("q", 0.5), "q").values["factor"].tolist() == [0.5]
    assert only(edits.scale("q", X), "q").values["factor"].shape == (1, 3, 4)
    edit = only(edits.force_router([5, 2], 1, -1), "router")
    assert edit.operation == operations.KeepExperts()
    assert edit.values["experts"].tolist() == [[5, 2]]
    assert edit.values["experts"].dtype == np.int32


def test_custom_keeps_its_function_and_its_arrays():
    edit = only(edits.custom("v", jnp.multiply, 3, X, layers=2), "v")
    assert edit.operation == operations.Custom(jnp.multiply)
    assert [value.shape for value in edit.values] == [(1,), (1, 3, 4)]
    assert edit.layers.tolist() == [[[2, 3]]]
    assert only(edits.custom("v", jnp.tanh), "v").values == ()


@pytest.mark.parametrize(
    ("positions", "places", "where"),
    [
        (None, [[0, 0], [1, 0], [2, 0], NOWHERE], [[0, 0, 3, 0]]),
        ([5, -1, 0], [[5, 0], [-1, 1], [0, 0], NOWHERE], None),
        (range(2, 5), [[2, 0], [3, 0], [4, 0], NOWHERE], [[2, 0, 5, 0]]),
        (np.array([1, 2, 3]), [[1, 0], [2, 0], [3, 0], NOWHERE], [[1, 0, 4, 0]]),
    ],
)
def test_a_patch_has_a_row_per_position(positions, places, where):
    edit = only(edits.patch(X, 2, positions), "resid_post")
    assert edit.operation == operations.Patch()
    np.testing.assert_array_equal(edit.values["activations"], [[*X, np.zeros(4)]])
    assert edit.values["positions"].tolist() == [places]
    assert edit.values["units"] is None
    assert edit.layers.tolist() == [[[2, 3]]]
    if where is not None:
        assert edit.positions.tolist() == [where]


def test_a_patch_of_one_position_and_of_some_heads():
    edit = only(edits.patch(X, 0, -1, "z", heads=[2, 0, 1]), "z")
    np.testing.assert_array_equal(edit.values["activations"], X[None, None])
    assert edit.values["positions"].tolist() == [[[-1, 1]]]
    assert edit.values["units"].tolist() == [[2, 0, 1, -(2**30)]]
    assert only(edits.patch(X, 0, 1, "z", heads=2), "z").values["units"].tolist() == [[2]]


def test_a_frozen_pattern_is_a_patch_of_the_pattern():
    pattern = np.ones((3, 2, 3), np.float32)
    edit = only(edits.freeze_attention(pattern, 1, heads=[1]), "pattern")
    assert edit.operation == operations.PatchPattern()
    assert edit.values["activations"].shape == (1, 4, 2, 3)
    assert edit.values["units"].tolist() == [[1]]
    assert edit.positions.tolist() == [[[0, 0, 3, 0]]]


class Unhashable:
    """A function that no program can be found by."""

    __hash__ = None

    def __call__(self, x):
        return 2 * x


# What is refused

HEAD = [(0, 1)]
REFUSED = {
    "no heads": (lambda: edits.ablate_heads([]), "no head is named; give a list of"),
    "no neurons": (lambda: edits.ablate_neurons([]), "no neuron is named"),
    "flat pair": (lambda: edits.ablate_heads((3, 5)), r"3 is no \(layer, head\) pair of natural"),
    "triple": (lambda: edits.ablate_heads([(0, 1, 2)]), r"\(0, 1, 2\) is no \(layer, head\) pair"),
    "negative": (lambda: edits.ablate_neurons([(0, -1)]), r"\(0, -1\) is no \(layer, neuron\)"),
    "bool": (lambda: edits.ablate_heads([(True, 0)]), r"head\) pair holds True"),
    "float": (lambda: edits.ablate_heads([(0, 1.0)]), r"head\) pair holds 1\.0"),
    "twice": (lambda: edits.ablate_heads([(0, 1), [0, 1]]), "a head is named twice in"),
    "mean and resample": (
        lambda: edits.ablate_heads(HEAD, mean={0: X}, resample={0: X[None]}),
        "both mean and resample are given",
    ),
    "mean of too few": (
        lambda: edits.ablate_heads([(0, 1), (0, 2)], mean=X),
        r"mean has shape \(3, 4\) for 2 heads; give a row for each",
    ),
    "mean of no layer": (
        lambda: edits.ablate_heads(HEAD, mean={1: X}),
        "mean has nothing for layer 0, whose head 1 is ablated",
    ),
    "mean of no head": (
        lambda: edits.ablate_heads([(0, 3)], mean={0: X}),
        r"mean of layer 0 has shape \(3, 4\); axis 0 must hold its heads, head 3 among them",
    ),
    "resample of no layer": (
        lambda: edits.ablate_heads(HEAD, resample={}),
        "resample has nothing for layer 0",
    ),
    "resample of one token": (
        lambda: edits.ablate_neurons(HEAD, resample={0: X[0]}),
        r"resample of layer 0 has shape \(4,\); axis 1 must hold its neurons",
    ),
    "nan samples": (
        lambda: edits.ablate_neurons(HEAD, resample={0: np.full((2, 2), np.nan)}),
        "resample of layer 0 holds a nan or an infinity",
    ),
    **{
        f"seed {seed!r}": (
            lambda seed=seed: edits.ablate_neurons(HEAD, resample={0: X}, seed=seed),
            f"seed is {seed!r}; give an integer from 0 to 4294967295",
        )
        for seed in (-1, 2**32, True, 0.5)
    },
    "steer no numbers": (lambda: edits.steer("up", 0), "vector is 'up'; give an array of numbers"),
    "steer nan": (lambda: edits.steer([1, np.nan], 0), "vector holds a nan or an infinity"),
    "steer scales": (lambda: edits.steer(X[0], 0, [1, 2]), r"scale has shape \(2,\); give one"),
    "steer inf": (lambda: edits.steer(X[0], 0, np.inf), "scale holds a nan or an infinity"),
    "steer site": (lambda: edits.steer(X[0], 0, site="resid"), "'resid' is not a site; the sites"),
    "scale site": (lambda: edits.scale("Z", 2), "'Z' is not a site; the sites are resid_pre,"),
    "scale none": (lambda: edits.scale("z", None), "factor holds a nan"),
    "mlp mean": (lambda: edits.ablate_mlp(mean=[np.inf]), "mean holds a nan or an infinity"),
    "no experts": (lambda: edits.force_router([]), "experts is empty; name at least one"),
    "experts twice": (lambda: edits.force_router([1, 1]), r"experts is \[1, 1\]; .*each once"),
    "custom site": (lambda: edits.custom("zz", jnp.tanh), "'zz' is not a site"),
    "custom function": (lambda: edits.custom("z", 3), "function is 3; give one that takes"),
    "custom array": (
        lambda: edits.custom("z", jnp.add, 1, [np.nan]),
        "array 1 holds a nan or an infinity",
    ),
    "patch rows": (lambda: edits.patch(X, 0, [1, 2]), "2 positions for 3 rows of data"),
    "patch slice": (lambda: edits.patch(X, 0, slice(3)), "takes a list of positions"),
    "patch name": (lambda: edits.patch(X, 0, "prompt"), "positions is 'prompt'; data with a row"),
    "patch bool": (lambda: edits.patch(X, 0, [1, 2, True]), "positions holds True; give integers"),
    "patch nothing": (lambda: edits.patch(X[:0], 0), r"activations have the shape \(0, 4\)"),
    "patch nan": (lambda: edits.patch(X * np.nan, 0), "activations holds a nan"),
    "patch site": (lambda: edits.patch(X, 0, site="resid"), "'resid' is not a site"),
    "patch layer": (lambda: edits.patch(X, -1), "layer -1 does not exist"),
    "no heads of a patch": (
        lambda: edits.patch(X, 0, site="z", heads=[]),
        "heads is empty; name at",
    ),
    "heads": (lambda: edits.patch(X, 0, site="z", heads=[1, 0.5]), "heads holds 0.5"),
    "heads of the residual": (lambda: edits.patch(X, 0, heads=[1]), "'resid_post' has no heads"),
    "a position twice": (lambda: edits.patch(X[:2], 0, [1, 1]), r"one twice: \[1, 1\]"),
    "half an expert": (lambda: edits.force_router([1.5]), "experts holds 1.5"),
    "a list for a function": (lambda: edits.custom("z", Unhashable()), "which is not hashable"),
    "complex": (lambda: edits.steer([1j], 0), "vector is .* give an array of numbers"),
    "huge": (lambda: edits.steer([10**400], 0), "vector is .* give an array of numbers"),
    "no mapping": (lambda: edits.ablate_heads([(0, 0)], resample=X), "resample is no mapping"),
    "nothing to draw": (
        lambda: edits.ablate_heads([(0, 0)], resample={0: np.zeros((0, 2, 4))}),
        "resample holds no tokens",
    ),
    "bool head": (lambda: edits.patch(X, 0, site="z", heads=True), "heads is True; give"),
}


@pytest.mark.parametrize(("make", "says"), REFUSED.values(), ids=REFUSED)
def test_refused(make, says):
    with pytest.raises(fj.RequestError, match=says):
        make()


# Composition, and what flows through


def through(taps, x, site="resid_post", layer=0):
    """What a site's value becomes, in one prompt of its length."""
    run = TapRun(placed(taps, jnp.arange(x.shape[0])))
    return run(site, jnp.asarray(x), layer)


def test_a_plus_b_does_a_and_then_b():
    double, add = edits.scale("resid_post", 2.0), edits.steer([1.0] * 4, 0)
    np.testing.assert_array_equal(through(double + add, X), 2 * X + 1)
    np.testing.assert_array_equal(through(add + double, X), 2 * (X + 1))
    fill = edits.custom("resid_post", lambda x: 0 * x + 5, positions=-1)
    np.testing.assert_array_equal(through(add + fill + double, X), [*(2 * X[:2] + 2), [10] * 4])
    kinds = [type(e.operation).__name__ for e in (double + add + fill).edits["resid_post"]]
    assert kinds == ["Multiply", "Add", "Custom"]
    assert len(double.edits["resid_post"]) == 1


def test_a_plus_b_keeps_other_sites_and_captures():
    read = fj.Taps(capture=("z", "q"), layers=(1,))
    both = read + edits.scale("q", 2.0) + fj.Taps(capture=("q", "k"), layers=(0,))
    assert both.capture == ("z", "q", "k")
    assert both.layers == (0, 1)
    assert list(both.edits) == ["q"]
    assert (both + edits.ablate_mlp()).layers == (0, 1)
    assert (both + fj.Taps(capture=("v",))).layers is None
    assert both.sites == {"z", "q", "k"}
    with pytest.raises(TypeError):
        both + None


def test_the_same_edit_elsewhere_has_the_same_structure():
    """Other values, layers and positions are data: they share a compiled program."""

    def kind(taps):
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), taps)
        return jax.tree.structure(taps), jax.tree.leaves(shapes)

    def alike(*taps):
        return all(kind(each) == kind(taps[0]) for each in taps)

    assert alike(*(edits.ablate_heads(h) for h in ([(0, 1)] * 1, [(5, 7)], [(3, 0)])))
    assert alike(
        edits.ablate_heads([(0, 1), (0, 2), (0, 5)]), edits.ablate_heads([(1, i) for i in range(4)])
    )
    assert alike(
        *(
            edits.steer(v, i, s, p)
            for v, i, s, p in [
                (X[0], 0, 1, None),
                (X[1], range(5), -3.5, "prompt"),
                (X[2], 7, 0, slice(-4, -1)),
            ]
        )
    )
    assert alike(
        *(edits.patch(X[:n], i) for n, i in ((3, 0), (3, 9))),
        edits.patch(np.ones((4, 4)), 5, range(4, 8)),
    )
    assert not alike(edits.scale("q", 2.0), edits.scale("q", X))


def test_gradients_flow_through_what_is_given():
    def total(vector, scale, factor, patched):
        taps = (
            edits.steer(vector, 0, scale, positions=[0, 2])
            + edits.scale("resid_post", factor)
            + edits.patch(patched, 0, 1)
        )
        assert isinstance(taps.edits["resid_post"][0].values["vector"], jax.core.Tracer)
        return through(taps, X).sum()

    arguments = (jnp.ones(4), jnp.float32(3), jnp.float32(2), jnp.zeros(4))
    vector, scale, factor, patched = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(*arguments)
    # factor * (x + scale * vector) at tokens 0 and 2; the patched token is what it is given.
    np.testing.assert_array_equal(vector, [12] * 4)
    assert scale == 2 * 2 * 4
    assert factor == (X[0] + 3).sum() + (X[2] + 3).sum()
    np.testing.assert_array_equal(patched, [1] * 4)


def test_gradients_flow_through_a_constant():
    def total(mean):
        return through(edits.ablate_neurons([(0, 1), (0, 3)], mean=mean), X, "mlp_post").sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(jnp.ones(2)), [3, 3])
    expected = X.sum() - X[:, [1, 3]].sum() + 3 * (5 + 7)
    assert total(jnp.asarray([5.0, 7.0])) == expected


def test_every_site_takes_an_edit():
    for site in SITES:
        assert only(edits.scale(site, 2.0), site).operation == operations.Multiply()
