"""MiniMax: its layers, how fast heads forget, what is refused, where the weights stand."""

import math

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, UnsupportedError
from tests.parity.golden import load_case, raw_config


def config_of(name, **changes):
    return read_config(raw_config(name, **changes))


def test_every_other_layer_attends_where_none_is_listed():
    raw = {k: v for k, v in load_case("minimax").config.items() if k != "layer_types"}
    layers = read_config(raw | {"num_hidden_layers": 5}).layers
    assert [i for i, spec in enumerate(layers) if spec.attention is not None] == [0, 2, 4]


def test_each_branch_has_its_own_factors():
    full, linear, _ = config_of("minimax").layers
    assert full.residual_from_norm
    assert linear.residual_from_norm
    assert (full.mixer_residual_scale, full.attention_scale) == (1.7, 0.6)
    assert (linear.mixer_residual_scale, linear.recurrent_scale) == (1.3, 0.8)
    assert {(s.mlp_residual_scale, s.mlp_scale) for s in (full, linear)} == {(0.7, 1.4)}


def test_heads_forget_at_a_geometric_series_of_rates_and_slower_in_later_layers():
    """Of four heads in three layers: 2^-2 to 2^-8 in the first, half of that in the second."""
    first, second, _ = config_of("minimax_options").layers
    assert first.recurrent.decays == pytest.approx(
        [2.0**-n * (1 + 1e-5) for n in (2, 4, 6, 8)], rel=1e-12
    )
    ratio = second.recurrent.decays[0] / first.recurrent.decays[0]
    assert math.isclose(ratio, 0.5, rel_tol=1e-4)


def test_the_window_is_one_of_softmax_layers():
    layers = config_of("minimax_options").layers
    assert layers[2].attention.window == 8
    assert config_of("minimax").layers[0].attention.window is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("shared_intermediate_size", 64),
        ("layer_types", ["sliding_attention"] * 3),
    ],
)
def test_options_that_are_not_run_are_refused_by_name(key, value):
    with pytest.raises(UnsupportedError, match=key):
        config_of("minimax", **{key: value})


@pytest.mark.parametrize(("key", "value"), [("num_experts_per_tok", 5), ("alpha_factor", 2.0)])
def test_contradictions_and_unknown_keys_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=key):
        config_of("minimax", **{key: value})
