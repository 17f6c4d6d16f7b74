"""Which sites a model has, and which taps fit it: as the forward itself finds them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models import init_params
from ferrum_jax.models.sites import check_taps, site_shape
from ferrum_jax.types import (
    SITES,
    AttentionConfig,
    Edit,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormPlacement,
    RopeConfig,
)

TOKENS = 7
"""Unequal to every size of the models, so that no axis is taken for another."""
ATTENTION = AttentionConfig(num_heads=6, num_kv_heads=2, head_dim=4, scale=0.5, rope=RopeConfig())
DENSE = LayerSpec(ATTENTION, MLPConfig(20))
SPARSE = LayerSpec(ATTENTION, MoEConfig(num_experts=5, experts_per_token=2, ffn_size=8))
WINDOWED = LayerSpec(replace(ATTENTION, window=3, soft_cap=9.0), MLPConfig(20))
UNGATED = LayerSpec(ATTENTION, MLPConfig(36, gated=False), placement=NormPlacement.SANDWICH)
OTHER_HEADS = LayerSpec(replace(ATTENTION, num_heads=3, num_kv_heads=3, head_dim=8), MLPConfig(9))
MODELS = {
    "dense": (DENSE, DENSE),
    "sparse": (SPARSE,),
    "windowed": (WINDOWED, DENSE),
    "ungated": (UNGATED,),
    "mixed": (DENSE, SPARSE, OTHER_HEADS),
}


def model(kind):
    return ModelConfig(
        model_type="llama", vocab_size=31, hidden_size=12, layers=MODELS[kind], max_positions=64
    )


MIXED = model("mixed")
"""Layer 0 is dense, layer 1 sparse, layer 2 dense with 3 heads of 8 and 9 neurons."""


@cache
def captured(kind):
    """Every site that the forward reaches, by layer, as the shape of the whole activation."""
    config = model(kind)
    layers = range(config.num_layers + 1)
    absent = {site for site in SITES if not any(site_shape(config, site, i) for i in layers)}
    taps = fj.Taps(capture=tuple(site for site in SITES if site not in absent))

    def run(params):
        tokens = jnp.arange(TOKENS, dtype=jnp.int32)
        return fj.forward_capture(
            params, tokens, tokens, None, config=config, attend=fj.dense_attention, taps=taps
        )[2]

    found = jax.eval_shape(run, init_params(config))
    return {site: {i: x.shape for i, x in layers.items()} for site, layers in found.items()}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("site", SITES)
def test_a_site_has_the_shape_that_the_forward_gives_it(kind, site):
    config = model(kind)
    shapes = captured(kind).get(site, {})
    for layer in range(config.num_layers + 1):
        shape = site_shape(config, site, layer)
        if layer not in shapes:
            assert shape is None
        else:
            sizes = [TOKENS if size == -1 else size for size in shape]
            assert shapes[layer] == (TOKENS, *sizes)
            assert (-1 in shape) == (site == "pattern")


def test_the_shapes_by_hand():
    assert site_shape(MIXED, "q", 0) == site_shape(MIXED, "z", 0) == (6, 4)
    assert site_shape(MIXED, "k", 0) == site_shape(MIXED, "v", 0) == (2, 4)
    assert site_shape(MIXED, "pattern", 0) == (6, -1)
    assert site_shape(MIXED, "mlp_pre", 0) == site_shape(MIXED, "mlp_post", 0) == (20,)
    assert site_shape(MIXED, "mlp_out", 1) == site_shape(MIXED, "resid_mid", 1) == (12,)
    assert site_shape(MIXED, "router", 1) == (5,)
    assert site_shape(MIXED, "z", 2) == (3, 8)
    assert site_shape(MIXED, "logits", 3) == (31,)
    assert site_shape(model("ungated"), "mlp_pre", 0) == (36,)


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        ("router", 0),
        ("mlp_pre", 1),
        ("mlp_post", 1),
        ("z", -1),
        ("z", 3),
        ("logits", 2),
        ("logits", 0),
        ("residual", 0),
    ],
)
def test_a_site_that_a_layer_lacks(site, layer):
    assert site_shape(MIXED, site, layer) is None


def test_taps_that_fit():
    hidden = np.zeros(12, np.float32)
    for taps in (
        fj.Taps(),
        fj.Taps(capture=tuple(s for s in SITES if any(site_shape(MIXED, s, i) for i in range(4)))),
        fj.Taps(capture=("router",), layers=(0, 1)),
        fj.Taps(capture=("z",), layers=(np.int64(2),)),
        fj.edits.ablate_heads([(0, 5), (1, 5), (2, 2)]),
        fj.edits.ablate_neurons([(0, 19), (2, 8)]),
        fj.edits.ablate_neurons([(0, 1)], resample={0: np.zeros((3, 20))}),
        fj.edits.ablate_heads([(2, 0)], mean={2: np.zeros((3, 8))}),
        fj.edits.steer(hidden, None),
        fj.edits.steer(np.zeros(31), 3, site="logits"),
        fj.edits.steer(np.zeros(31), None, site="logits"),
        fj.edits.scale("mlp_post", 2.0),
        fj.edits.force_router([4, 0], layer=[0, 1]),
        fj.edits.patch(np.zeros((2, 2, 4)), [0, 1], site="v", heads=[1]),
        fj.edits.freeze_attention(np.zeros((3, 6, 5)), 0),
        fj.edits.custom("z", jnp.multiply, np.ones((6, 4)), layers=[0, 1]),
        fj.edits.custom("pattern", jnp.tanh),
    ):
        check_taps(MIXED, taps)


def act_nowhere(edit):
    """The edit with a span of layers that is empty, as padding is."""
    return edit.replace(layers=np.asarray([[[7, 7]]], np.int32))


def test_an_edit_that_acts_in_no_layer_fits():
    (edit,) = fj.edits.steer(np.zeros(5), 0).edits["resid_post"]
    check_taps(MIXED, fj.Taps(edits={"resid_post": (act_nowhere(edit),)}))


HAS = (
    "this model has resid_pre, resid_mid, resid_post, q, k, v, z, pattern, attn_out, mlp_pre, "
    "mlp_post, mlp_out, router"
)
edits = fj.edits
ZEROS = np.zeros
MISFITS = {
    "site": (fj.Taps(capture=("residual",)), "'residual' is not a site; the sites are resid_pre,"),
    "layer": (
        fj.Taps(capture=("z",), layers=(0, 3)),
        "layer 3 does not exist; the model has layers 0 to 2",
    ),
    "negative layer": (fj.Taps(capture=("z",), layers=(-1,)), "layer -1 does not exist; the mod"),
    "bool layer": (fj.Taps(capture=("z",), layers=(True,)), "layer True is no integer"),
    "float layer": (fj.Taps(capture=("z",), layers=(1.0,)), "layer 1.0 is no integer"),
    "layers alone": (fj.Taps(layers=(9,)), "layer 9 does not exist"),
    "no router there": (
        fj.Taps(capture=("router",), layers=(0, 2)),
        f"there is no site 'router' in layers 0, 2; {HAS}",
    ),
    "no neurons there": (
        fj.Taps(capture=("mlp_post",), layers=(1,)),
        "there is no site 'mlp_post' in layers 1",
    ),
    "edited site": (fj.Taps(edits={"zz": edits.scale("z", 2.0).edits["z"]}), "'zz' is not a site"),
    "edited layer": (edits.scale("z", 2.0, layers=[1, 3]), "layer 3 does not exist"),
    "edit of no site": (edits.ablate_neurons([(1, 0)]), "no site 'mlp_post' in layers 1; "),
    "logits of a layer": (edits.scale("logits", 2.0, layers=0), "no site 'logits' in layers 0"),
    "head": (
        edits.ablate_heads([(0, 5), (2, 3)]),
        "head 3 does not exist in layer 2, which has 0 to 2",
    ),
    "neuron": (edits.ablate_neurons([(0, 20)]), "neuron 20 does not exist in layer 0, which has 0"),
    "mean": (
        edits.ablate_heads([(0, 1)], mean={0: ZEROS((6, 5))}),
        r"the value per head has shape \(5,\); z of layer 0 takes \(4,\) for a token",
    ),
    "sample": (
        edits.ablate_heads([(2, 1)], resample={2: ZEROS((9, 3, 4))}),
        r"the sample per head has shape \(4,\); z of layer 2 takes \(8,\)",
    ),
    "vector": (
        edits.steer(ZEROS(11), 1),
        r"the vector has shape \(11,\); resid_post of layer 1 takes \(12,\) for a token",
    ),
    "vector of one layer": (
        edits.steer(ZEROS((6, 4)), None, site="z"),
        r"the vector has shape \(6, 4\); z of layer 2 takes \(3, 8\)",
    ),
    "vocabulary": (edits.steer(ZEROS(30), 3, site="logits"), r"logits of layer 3 takes \(31,\)"),
    "factor": (edits.scale("k", ZEROS((4, 2)), 0), r"the factor has shape \(4, 2\); k of layer 0"),
    "constant": (edits.ablate_mlp(1, mean=ZEROS(20)), r"constant has shape \(20,\); mlp_out of la"),
    "expert": (edits.force_router([1, 5]), "expert 5 does not exist in layer 1, which has 0 to 4"),
    "patch": (
        edits.patch(ZEROS((3, 2, 8)), 0, site="k"),
        r"the activation has shape \(2, 8\); k of layer 0 takes \(2, 4\)",
    ),
    "patched head": (
        edits.patch(ZEROS((3, 2, 4)), 0, site="k", heads=[2]),
        "unit 2 does not exist in layer 0, which has 0 to 1",
    ),
    "pattern": (
        edits.freeze_attention(ZEROS((3, 6, 3)), 2),
        r"pattern has the shape \[T, 6, 3\]; layer 2 has 3 heads: give \[T, 3, keys\]",
    ),
    "pattern of a head": (
        edits.freeze_attention(ZEROS((3, 6, 3)), 0, heads=6),
        "head 6 does not exist in layer 0, which has 0 to 5",
    ),
    "function": (
        edits.custom("z", jnp.matmul, ZEROS((5, 5)), layers=0),
        r"the function of the edit at z, layer 0 fails on one token's activation of shape \(6, 4\)",
    ),
    "result": (
        edits.custom("mlp_post", jnp.sum, layers=[0]),
        r"the edit at mlp_post, layer 0 returns \(\); it must keep one token's shape \(20,\)",
    ),
    "no array": (
        edits.custom("mlp_post", lambda x: (x, x), layers=0),
        r"the edit at mlp_post, layer 0 returns \(.*\); it must keep",
    ),
}


@pytest.mark.parametrize(("taps", "says"), MISFITS.values(), ids=MISFITS)
def test_taps_that_do_not_fit(taps, says):
    with pytest.raises(fj.RequestError, match=says):
        check_taps(MIXED, taps)


def test_what_a_smaller_model_lacks():
    with pytest.raises(fj.RequestError, match=r"no site 'router' in layers 0, 1; this model has"):
        check_taps(model("dense"), fj.Taps(capture=("router",)))
    with pytest.raises(fj.RequestError, match="no site 'mlp_pre' in layers 0; "):
        check_taps(model("sparse"), fj.edits.scale("mlp_pre", 2.0))
    with pytest.raises(fj.RequestError, match=r"layer 1 does not exist; .* 0 to 0"):
        check_taps(model("sparse"), fj.edits.ablate_layer(1))


def test_a_bare_function_is_for_the_forward_alone():
    taps = fj.Taps(edits={"z": (jnp.tanh,)})
    with pytest.raises(fj.UnsupportedError, match=r"edit at z is .*fj\.edits\.custom makes one"):
        check_taps(MIXED, taps)


def test_every_row_of_an_edit_is_checked():
    taps = fj.edits.ablate_heads([(0, 1)])
    (edit,) = taps.edits["z"]
    rows = Edit(
        operation=edit.operation,
        values={"units": np.asarray([[[0, 1]], [[2, 4]]], np.int32), "constants": None},
        layers=np.asarray([[[0, 1]], [[2, 3]]], np.int32),
        positions=np.repeat(edit.positions, 2, axis=0),
    )
    with pytest.raises(fj.RequestError, match="head 4 does not exist in layer 2"):
        check_taps(MIXED, fj.Taps(edits={"z": (rows,)}))


def test_shapes_are_checked_while_the_values_are_traced():
    def check(taps):
        check_taps(MIXED, taps)
        return 0

    jax.jit(check)(fj.edits.ablate_heads([(0, 1)]))
    with pytest.raises(fj.RequestError, match=r"vector has shape \(5,\); resid_post of layer 0"):
        jax.jit(check)(fj.edits.steer(np.zeros(5), 1))
