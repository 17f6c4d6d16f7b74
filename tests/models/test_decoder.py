"""The forward: packed sequences, taps, gradients, edited layers."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import ferrum_jax as fj
from ferrum_jax.models import forward_capture, init_params
from ferrum_jax.models.sites import site_shape
from ferrum_jax.models.taps import TapRun
from ferrum_jax.types import (
    SITES,
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormPlacement,
    RopeConfig,
)

ATTENTION = AttentionConfig(
    num_heads=4, num_kv_heads=2, head_dim=8, scale=8**-0.5, rope=RopeConfig()
)
CONFIG = ModelConfig(
    model_type="llama",
    vocab_size=61,
    hidden_size=32,
    layers=(
        LayerSpec(ATTENTION, MLPConfig(48)),
        LayerSpec(ATTENTION, MoEConfig(4, 2, 24), placement=NormPlacement.SANDWICH),
    ),
    max_positions=64,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 61, 12), jnp.int32)
POSITIONS = jnp.arange(12, dtype=jnp.int32)


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG)


def run(params, taps=None, tokens=TOKENS, positions=POSITIONS, config=CONFIG):
    return forward_capture(
        params,
        tokens,
        positions,
        None,
        config=config,
        attend=fj.dense_attention,
        taps=fj.Taps() if taps is None else taps,
    )


def test_sequences_end_to_end_equal_each_alone(params):
    tokens = jnp.concatenate([TOKENS, TOKENS[3:9]])
    positions = jnp.concatenate([POSITIONS, POSITIONS[:6]])
    together, _, _ = run(params, tokens=tokens, positions=positions)
    alone, _, _ = run(params, tokens=TOKENS[3:9], positions=POSITIONS[:6])
    np.testing.assert_allclose(together[:12], run(params)[0], atol=1e-5)
    np.testing.assert_allclose(together[12:], alone, atol=1e-5)


def operations(params):
    """Every operation of a run as text, without the addresses of the functions in it."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(jax.make_jaxpr(lambda p: run(p)[0])(params)))


def test_empty_taps_add_no_operation(params, monkeypatch):
    with_taps = operations(params)
    monkeypatch.setattr(TapRun, "__call__", lambda self, site, x, layer: x)
    assert with_taps == operations(params)


def test_every_site_is_captured_where_it_exists(params):
    sites = [site for site in SITES if any(site_shape(CONFIG, site, i) for i in range(3))]
    _, _, captured = run(params, fj.Taps(capture=tuple(sites)))
    heads, width = (12, 4, 8), (12, 32)
    shapes = {
        "q": heads,
        "z": heads,
        "k": (12, 2, 8),
        "v": (12, 2, 8),
        "pattern": (12, 4, 12),
        "mlp_pre": (12, 48),
        "mlp_post": (12, 48),
        "router": (12, 4),
        "expert_weights": (12, 4),
        "logits": (12, 61),
    }
    layers = {"mlp_pre": [0], "mlp_post": [0], "router": [1], "logits": [2]}
    layers["expert_weights"] = layers["router"]
    assert set(captured) == set(sites)
    for site, values in captured.items():
        assert sorted(values) == layers.get(site, [0, 1]), site
        assert all(x.shape == shapes.get(site, width) for x in values.values()), site
    np.testing.assert_allclose(captured["pattern"][0].sum(-1), 1, atol=1e-5)
    resid = captured["resid_pre"][0] + captured["attn_out"][0]
    np.testing.assert_allclose(captured["resid_mid"][0], resid, atol=1e-6)
    np.testing.assert_array_equal(captured["resid_post"][0], captured["resid_pre"][1])


def _zero_head(layer, head, x, here):
    return x.at[:, head].set(0) if here == layer else x


def test_an_edit_of_z_equals_editing_the_weights(params):
    taps = fj.Taps(edits={"z": (Partial(_zero_head, 0, 3),)})
    layer = params.layers[0]
    attention = layer.attention.replace(o=layer.attention.o.at[3].set(0))
    ablated = params.replace(layers=(layer.replace(attention=attention), params.layers[1]))
    np.testing.assert_allclose(run(params, taps)[0], run(ablated)[0], atol=1e-5)
    assert np.abs(run(params, taps)[0] - run(params)[0]).max() > 1e-2


def _plus(vector, x, layer):
    return x + vector


def test_other_values_of_an_edit_do_not_recompile(params):
    compilations = []

    @jax.jit
    def steered(params, taps):
        compilations.append(1)
        return run(params, taps)[0]

    results = [
        steered(params, fj.Taps(edits={"resid_post": (Partial(_plus, jnp.full(32, value)),)}))
        for value in (0.0, 1.0, 2.0)
    ]
    assert len(compilations) == 1
    np.testing.assert_allclose(results[0], run(params)[0], atol=1e-5)
    assert np.abs(results[2] - results[1]).max() > 1e-3


def test_edits_of_the_logits_act_in_unembed(params):
    taps = fj.Taps(edits={"logits": (Partial(_plus, jnp.full(61, 2.0)),)})
    hidden = run(params, taps)[0]
    difference = fj.unembed(params, hidden, CONFIG, taps=taps) - fj.unembed(params, hidden, CONFIG)
    np.testing.assert_allclose(difference, 2.0, atol=1e-5)


def test_wrong_taps_say_so(params):
    with pytest.raises(fj.ModelError, match="'residual' is not a site"):
        run(params, fj.Taps(capture=("residual",)))
    dense = replace(CONFIG, layers=CONFIG.layers[:1])
    with pytest.raises(fj.ModelError, match=r"never reaches the site.*router"):
        run(params.replace(layers=params.layers[:1]), fj.Taps(capture=("router",)), config=dense)
    with pytest.raises(fj.ModelError, match=r"must keep \(12, 4, 8\)"):
        run(params, fj.Taps(edits={"z": (Partial(lambda x, layer: x[:3]),)}))
    with pytest.raises(fj.ModelError, match="forward_capture"):
        fj.forward(
            params,
            TOKENS,
            POSITIONS,
            None,
            config=CONFIG,
            attend=fj.dense_attention,
            taps=fj.Taps(capture=("z",)),
        )


def test_the_gradient_is_the_slope(params):
    def loss(params):
        logits = fj.unembed(params, run(params)[0], CONFIG)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(11), TOKENS[1:]])

    gradient = jax.grad(loss)(params)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)
    size = 1e-4  # so small that no token changes its experts

    def moved(sign):
        return loss(jax.tree.map(lambda x, d: x + sign * size * d, params, direction))

    slope = (moved(1) - moved(-1)) / (2 * size)
    products = jax.tree.map(lambda g, d: jnp.vdot(g, d), gradient, direction)
    assert float(sum(jax.tree.leaves(products))) == pytest.approx(float(slope), rel=0.02)


def test_edit_layers_changes_only_what_is_named():
    edited = fj.edit_layers(CONFIG, layers=[0], window=3, activation="relu", norm="layer")
    assert edited.layers[1] == CONFIG.layers[1]
    spec = edited.layers[0]
    assert (spec.attention.window, spec.mlp.activation, spec.norm) == (3, "relu", "layer")
    assert fj.edit_layers(CONFIG) == CONFIG
    assert fj.edit_layers(CONFIG, rope=None).layers[1].attention.rope is None


@pytest.mark.parametrize(
    ("layers", "changes", "says"),
    [
        ([2], {"window": 3}, "layers 0 to 1"),
        ([-1], {"window": 3}, "layer -1"),
        (None, {"windw": 3}, "did you mean 'window'"),
        (None, {"activation": "swoosh"}, "choose one of silu"),
        ([1], {"mlp_bias": True}, "layer 1 has no field 'mlp_bias'"),
    ],
)
def test_wrong_edits_of_layers(layers, changes, says):
    with pytest.raises(fj.ConfigError, match=says):
        fj.edit_layers(CONFIG, layers=layers, **changes)
