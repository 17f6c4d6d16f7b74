"""What the taps read is what transformers computes in its layers, a case of each model type."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrum_jax as fj
from ferrum_jax.models.sites import site_shape
from ferrum_jax.types import NormPlacement
from tests.parity.golden import Golden, case_names, load_case, tolerance, write_checkpoint

pytestmark = pytest.mark.every_case
HIDDEN = Path(__file__).parent / "hidden"
NAMES = sorted(path.stem for path in HIDDEN.glob("*.npz"))
SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mixer_out",
    "mlp_out",
    "pattern",
    "router",
)
NOT_STORED = {"gemma4_text": {"router"}}
"""What transformers does not form as such: its router of Gemma 4 returns probabilities."""


class Stored(NamedTuple):
    """What transformers has and what the taps read, by site and layer, for the tokens `rows`."""

    golden: Golden
    config: fj.ModelConfig
    rows: np.ndarray
    expected: dict[str, dict[int, np.ndarray]]
    captured: dict[str, dict[int, np.ndarray]]


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    with np.load(HIDDEN / f"{request.param}.npz") as file:
        arrays = dict(file)
    tokens, rows = arrays.pop("tokens"), arrays.pop("rows")
    arrays.pop("transformers")
    layers = {site: arrays.pop(f"{site}.layers") for site in SITES if site in arrays}
    expected = {site: {} for site in SITES}
    for site, array in arrays.items():
        expected[site] = {int(i): x for i, x in zip(layers[site], array, strict=True)}
    for layer in range(1, len(expected["resid_post"])):
        expected["resid_pre"][layer] = expected["resid_post"][layer - 1]
    golden = load_case(request.param)
    np.testing.assert_array_equal(tokens, golden.sequences[0][: len(tokens)])
    directory = write_checkpoint(golden, tmp_path_factory.mktemp("checkpoint"))
    config, params = fj.load_model(directory)
    _, _, captured = fj.forward_capture(
        params,
        jnp.asarray(tokens),
        jnp.arange(len(tokens), dtype=jnp.int32),
        None,
        config=config,
        attend=fj.dense_attention,
        taps=fj.Taps(capture=tuple(site for site in SITES if expected[site])),
    )
    captured = jax.tree.map(lambda x: np.asarray(x)[rows], captured)
    return Stored(golden, config, rows, expected, captured)


def test_there_is_a_case_of_each_model_type():
    types = [load_case(name).model_type for name in NAMES]
    assert sorted(types) == sorted({load_case(name).model_type for name in case_names()})
    assert sum(path.stat().st_size for path in HIDDEN.iterdir()) < 1_000_000


def test_every_layer_has_every_site(case):
    """What transformers has stored is what the model has, layer by layer: nothing is left out."""
    config = case.config
    for site in set(SITES) - NOT_STORED.get(config.model_type, set()):
        has = [i for i in range(config.num_layers) if site_shape(config, site, i) is not None]
        assert sorted(case.expected[site]) == has, site


def test_the_sites_equal_transformers(case):
    """Within the bar of the logits, of the size of the activation where that is above one."""
    for site in SITES:
        for layer, array in case.expected[site].items():
            ours = case.captured[site][layer]
            assert ours.shape == array.shape
            error = np.abs(ours - array).max() / max(1.0, np.abs(array).max())
            assert error < tolerance(case.golden), f"{site}, layer {layer}: {error:.1e}"


def test_a_pattern_has_tokens_first_and_keys_last(case):
    """`[T, N, S]`: each token's weights over the keys that it sees, which are its window's."""
    rows = case.rows
    for layer, pattern in case.captured.get("pattern", {}).items():
        spec = case.config.layers[layer].attention
        keys = pattern.shape[-1]
        assert pattern.shape == (len(rows), spec.num_heads, keys)
        distance = rows[:, None] - np.arange(keys)
        seen = (distance >= 0) & (distance < (getattr(spec, "window", None) or keys))
        if chunk := getattr(spec, "chunk", None):
            seen &= rows[:, None] // chunk == np.arange(keys) // chunk
        np.testing.assert_array_equal(pattern > 0, np.broadcast_to(seen[:, None], pattern.shape))
        total = pattern.sum(-1)
        if getattr(spec, "sinks", False):
            assert (total < 1).all()
        else:
            np.testing.assert_allclose(total, 1, atol=1e-5)


def test_the_residual_stream_is_the_sum_of_what_is_added(case):
    config, expected = case.config, case.expected
    for layer, before in expected["resid_pre"].items():
        spec = config.layers[layer]
        if spec.residual_from_norm or spec.placement is NormPlacement.AFTER_SUM:
            continue
        added = [expected[site].get(layer, 0) for site in ("attn_out", "mixer_out")]
        amid, after = before + sum(added), expected["resid_post"][layer]
        if layer in expected["resid_mid"]:
            np.testing.assert_allclose(expected["resid_mid"][layer], amid, atol=1e-5)
        if spec.per_layer_input is None:
            amid = amid + expected["mlp_out"].get(layer, 0)
            np.testing.assert_allclose(after, amid, atol=1e-5, rtol=1e-5)
