"""What the taps read is what transformers computes inside its layers, one case of each family."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.types import MoEConfig
from tests.parity.golden import load_case, write_checkpoint

HIDDEN = Path(__file__).parent / "hidden"
NAMES = sorted(path.stem for path in HIDDEN.glob("*.npz"))
TOLERANCE = 5e-5
"""Largest fp32 difference that is allowed, as for the logits."""
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "pattern", "router")


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    """`(config, expected, captured)`: what transformers has and what the taps read.

    `expected` is by site and layer, as `captured` is; the first axis of all is the token's.
    """
    with np.load(HIDDEN / f"{request.param}.npz") as file:
        arrays = dict(file)
    tokens = arrays.pop("tokens")
    arrays.pop("transformers")
    expected = {site: {} for site in SITES}
    for name, array in arrays.items():
        site, layer = name.split(".")
        expected[site][int(layer)] = array
    for layer in range(1, len(expected["resid_post"])):
        expected["resid_pre"][layer] = expected["resid_post"][layer - 1]
    golden = load_case(request.param)
    np.testing.assert_array_equal(tokens, golden.sequences[0][: len(tokens)])
    directory = write_checkpoint(golden, tmp_path_factory.mktemp("checkpoint"))
    config, params = fj.load_model(directory)
    capture = tuple(site for site in SITES if expected[site])
    _, _, captured = fj.forward_capture(
        params,
        jnp.asarray(tokens),
        jnp.arange(len(tokens), dtype=jnp.int32),
        None,
        config=config,
        attend=fj.dense_attention,
        taps=fj.Taps(capture=capture),
    )
    return config, expected, jax.tree.map(np.asarray, captured)


def test_there_is_a_case_of_each_family():
    assert len({load_case(name).model_type for name in NAMES}) == 8
    assert sum(path.stat().st_size for path in HIDDEN.iterdir()) < 1_000_000


@pytest.mark.parametrize("site", SITES)
def test_a_site_equals_transformers(case, site):
    config, expected, captured = case
    if not expected[site]:
        assert site == "router"
        assert not any(isinstance(layer.mlp, MoEConfig) for layer in config.layers)
        return
    assert sorted(captured[site]) == sorted(expected[site])
    for layer, array in expected[site].items():
        assert captured[site][layer].shape == array.shape
        error = np.abs(captured[site][layer] - array).max()
        assert error < TOLERANCE, f"layer {layer}: {error:.1e}"


def test_every_layer_has_every_site_and_experts_have_routers(case):
    config, expected, _ = case
    layers = list(range(config.num_layers))
    for site in SITES[:-1]:
        assert sorted(expected[site]) == layers
    sparse = [i for i in layers if isinstance(config.layers[i].mlp, MoEConfig)]
    assert sorted(expected["router"]) == sparse


def test_a_pattern_has_tokens_first_and_keys_last(case):
    """`[T, N, S]`: each token's weights over the keys that it sees, which are its window's."""
    config, _, captured = case
    for layer, pattern in captured["pattern"].items():
        spec = config.layers[layer].attention
        tokens = len(pattern)
        assert pattern.shape == (tokens, spec.num_heads, tokens)
        distance = np.arange(tokens)[:, None] - np.arange(tokens)
        seen = (distance >= 0) & (distance < (spec.window or tokens))
        np.testing.assert_array_equal(pattern > 0, np.broadcast_to(seen[:, None], pattern.shape))
        np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)


def test_the_residual_stream_is_the_sum_of_what_is_added(case):
    _, expected, _ = case
    for layer, before in expected["resid_pre"].items():
        amid = before + expected["attn_out"][layer]
        after = amid + expected["mlp_out"][layer]
        np.testing.assert_allclose(expected["resid_mid"][layer], amid, atol=1e-5)
        np.testing.assert_allclose(expected["resid_post"][layer], after, atol=1e-5)
