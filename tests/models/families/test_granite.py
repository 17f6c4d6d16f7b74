"""Granite and SmolLM 3: multipliers, and which layers have a rope or a window."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError
from tests.parity.golden import raw_config


def test_the_multipliers_of_granite():
    config = read_config(raw_config("granite_options"))
    assert config.embed_scale == 0.5
    assert config.logit_scale == 1 / 1.6
    for spec in config.layers:
        assert spec.attention.scale == 0.4
        assert spec.attention_scale == spec.mlp_scale == 0.6


def test_the_multipliers_of_granite_are_one_where_the_file_has_none():
    keys = ("embedding", "attention", "residual")
    bare = raw_config("granite")
    for key in (*(f"{k}_multiplier" for k in keys), "logits_scaling"):
        del bare[key]
    config = read_config(bare)
    spec = config.layers[0]
    scales = (config.embed_scale, config.logit_scale, spec.attention.scale)
    assert (*scales, spec.attention_scale, spec.mlp_scale) == (1, 1, 1, 1, 1)


@pytest.mark.parametrize("value", [0, -1.0, "8"])
def test_a_multiplier_must_be_positive(value):
    with pytest.raises(ConfigError, match="logits_scaling"):
        read_config(raw_config("granite", logits_scaling=value))


def ropes(config):
    return [spec.attention.rope is not None for spec in config.layers]


def windows(config):
    return [spec.attention.window for spec in config.layers]


def test_every_fourth_layer_of_smollm3_has_no_rope():
    listed, counted = raw_config("smollm3"), raw_config("smollm3", no_rope_layers=None)
    assert ropes(read_config(listed)) == ropes(read_config(counted)) == [True] * 3 + [False]


def test_the_layers_without_a_rope_get_the_window():
    config = read_config(raw_config("smollm3_window", no_rope_layers=None, layer_types=None))
    assert ropes(config) == [True, False, True]
    assert windows(config) == [None, 8, None]


def test_listed_types_beat_the_rule_of_smollm3():
    config = read_config(raw_config("smollm3_layer_types"))
    assert ropes(config) == [False, True, True]
    assert windows(config) == [None, None, 8]


def test_sliding_layers_with_the_window_switched_off_are_refused():
    with pytest.raises(ConfigError, match="use_sliding_window"):
        read_config(raw_config("smollm3_layer_types", use_sliding_window=False))


def test_a_list_of_ropes_that_is_too_short_is_refused():
    with pytest.raises(ConfigError, match="no_rope_layers lists 2 layers; the model has 4"):
        read_config(raw_config("smollm3", no_rope_layers=[1, 1]))


@pytest.mark.parametrize("name", ["granite", "smollm3"])
def test_an_unknown_key_is_refused(name):
    with pytest.raises(ConfigError, match="clip_qkv = 3"):
        read_config(raw_config(name, clip_qkv=3))
