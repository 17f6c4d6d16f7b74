"""OLMo to OLMo 3 and EXAONE 4.0: norms, windows, and which layers have a rope."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, NormKind, NormPlacement, QKNormOver, RopeKind
from tests.parity.golden import raw_config


def test_blocks_are_normed_after_and_queries_over_the_whole_projection():
    for spec in read_config(raw_config("olmo2")).layers:
        assert spec.placement is NormPlacement.POST
        assert spec.attention.qk_norm_over is QKNormOver.PROJECTION
    for spec in read_config(raw_config("exaone4")).layers:
        assert spec.placement is NormPlacement.POST
        assert spec.attention.qk_norm_over is QKNormOver.HEAD


def test_every_fourth_layer_of_olmo3_is_full_where_no_types_are_listed():
    config = read_config(raw_config("olmo3", layer_types=...))
    assert [spec.attention.window for spec in config.layers] == [8, 8, 8, None]


def test_the_rope_scaling_of_olmo3_is_for_full_layers_only():
    config = read_config(raw_config("olmo3_hub"))
    kinds = [spec.attention.rope.scaling.kind for spec in config.layers]
    assert kinds == [RopeKind.DEFAULT] * 3 + [RopeKind.YARN]
    assert {spec.attention.rope.theta for spec in config.layers} == {500000}


def test_a_rope_of_another_kind_of_layer_is_refused():
    ropes = {"chunked_attention": {"rope_type": "default"}}
    with pytest.raises(ConfigError, match="chunked_attention"):
        read_config(raw_config("olmo3", rope_parameters=ropes))


def test_full_layers_of_exaone4_have_a_rope_only_where_no_layer_has_a_window():
    windowed = read_config(raw_config("exaone4_options"))
    assert [spec.attention.window for spec in windowed.layers] == [8, None, 8]
    assert [spec.attention.rope is None for spec in windowed.layers] == [False, True, False]
    full = read_config(raw_config("exaone4_hub_full"))
    assert all(spec.attention.window is None and spec.attention.rope for spec in full.layers)


def test_a_pattern_in_letters_needs_the_layer_types_beside_it():
    assert read_config(raw_config("exaone4_hub")).layers[3].attention.window is None
    with pytest.raises(ConfigError, match="sliding_window_pattern is 'LLLG'"):
        read_config(raw_config("exaone4_hub", layer_types=None))


def test_sliding_layers_without_a_window_are_refused():
    types = ["sliding_attention", "full_attention"]
    with pytest.raises(ConfigError, match="sliding_window is null"):
        read_config(raw_config("exaone4_hub_full", layer_types=types))


@pytest.mark.parametrize("name", ["olmo2", "olmo3", "exaone4"])
def test_an_unknown_key_is_refused(name):
    with pytest.raises(ConfigError, match="clip_qkv = 3"):
        read_config(raw_config(name, clip_qkv=3))


def test_the_norms_of_olmo_have_no_weights_and_one_epsilon():
    config = read_config(raw_config("olmo", rms_norm_eps=0.5))
    assert config.norm_eps == 1e-5
    kinds = {config.final_norm, *(spec.norm for spec in config.layers)}
    assert kinds == {NormKind.LAYER_UNSCALED}


def test_olmo_clips_what_it_attends_with_where_the_file_says_so():
    clips = [
        read_config(raw_config(name)).layers[0].attention.qkv_clip
        for name in ("olmo", "olmo_hub", "olmo_options")
    ]
    assert clips == [None, None, 0.6]
    with pytest.raises(ConfigError, match="clip_qkv is -1; it must be a positive number"):
        read_config(raw_config("olmo", clip_qkv=-1))
