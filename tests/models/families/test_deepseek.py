"""DeepSeek V2 and V3, and GLM 4.5 and dots.llm1, which have the router of V3."""

import math

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, GroupScore, QKNormOver, RouterKind, UnsupportedError
from tests.parity.golden import raw_config


def read(name, **changes):
    """The config of a case with keys changed; `...` takes a key away."""
    return read_config(raw_config(name, **changes))


def test_the_scale_of_latent_attention_grows_with_the_stretched_rope():
    config = read("deepseek_v3_hub")
    growth = 0.1 * math.log(40) + 1
    assert config.layers[0].attention.scale == pytest.approx(20**-0.5 * growth**2)
    config = read("deepseek_v3_hub", rope_scaling=None)
    assert config.layers[0].attention.scale == pytest.approx(20**-0.5)


def test_rope_pairs_are_neighbours_unless_the_file_says_otherwise():
    assert read("deepseek_v2").layers[0].attention.rope.interleaved
    assert read("deepseek_v3").layers[0].attention.rope.interleaved
    assert not read("deepseek_v3_half_split").layers[0].attention.rope.interleaved


def test_queries_without_a_rank_and_with_the_rank_of_the_model_type():
    assert read("deepseek_v3", q_lora_rank=None).layers[0].attention.q_rank is None
    assert read("deepseek_v3", q_lora_rank=...).layers[0].attention.q_rank == 1536


def test_the_two_ways_of_choosing_a_group():
    second, third = read("deepseek_v2_groups").layers[1].mlp, read("deepseek_v3").layers[1].mlp
    assert (second.groups, second.groups_kept, second.group_score) == (4, 2, GroupScore.MAX)
    assert (third.groups, third.groups_kept, third.group_score) == (4, 2, GroupScore.TOP2_SUM)
    assert (second.router, second.choice_bias) == (RouterKind.SOFTMAX, False)
    assert (third.router, third.choice_bias) == (RouterKind.SIGMOID, True)


def test_a_greedy_router_does_not_look_at_groups():
    assert read("deepseek_v2", n_group=4, topk_group=2).layers[1].mlp.groups == 1


def test_norm_topk_prob_has_no_effect_in_v2():
    assert not read("deepseek_v2", norm_topk_prob=True).layers[1].mlp.norm_topk


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("deepseek_v2", "topk_method", "noaux_tc"),
        ("deepseek_v2", "scoring_func", "sigmoid"),
        ("deepseek_v3", "topk_method", "greedy"),
        ("deepseek_v3", "scoring_func", "softmax"),
        ("deepseek_v3", "moe_layer_freq", 2),
        ("glm4_moe", "moe_layer_freq", 2),
        ("dots1", "scoring_func", "softmax"),
        ("deepseek_v3", "hidden_act", "mish"),
    ],
)
def test_options_that_are_not_run_are_refused_by_name(name, key, value):
    with pytest.raises(UnsupportedError, match=key):
        read(name, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("num_key_value_heads", 2), ("head_dim", 16), ("qk_head_dim", 16)]
)
def test_sizes_that_contradict_latent_attention_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"{key} is {value}"):
        read("deepseek_v3", **{key: value})


@pytest.mark.parametrize("changes", [{"n_group": 3}, {"topk_group": 5}, {"topk_group": 1}])
def test_groups_that_allow_no_choice_are_refused(changes):
    with pytest.raises(ConfigError, match="topk_group"):
        read("deepseek_v3", **changes)


def test_half_a_head_of_glm_turns_unless_the_file_says_otherwise():
    fraction = {"rope_parameters": ..., "partial_rotary_factor": ...}
    assert read("glm4_moe", **fraction).layers[0].attention.rope.rotary_fraction == 0.5
    assert read("glm4_moe_hub").layers[0].attention.rope.rotary_fraction == 0.25
    assert not read("glm4_moe_hub").layers[0].attention.rope.interleaved


def test_glm_norms_queries_where_the_file_says_so():
    assert read("glm4_moe").layers[0].attention.qk_norm is None
    attention = read("glm4_moe_qk_norm").layers[0].attention
    assert attention.qk_norm is not None
    assert attention.qk_norm_over is QKNormOver.HEAD
    assert attention.qkv_bias
    assert not attention.out_bias


def test_windows_of_dots():
    windows = {"sliding_window": 8, "layer_types": ...}
    config = read("dots1", max_window_layers=1, **windows)
    assert [spec.attention.window for spec in config.layers] == [None, 8, 8, 8]
    config = read("dots1", sliding_window=..., layer_types=..., max_window_layers=3)
    assert [spec.attention.window for spec in config.layers] == [None, None, None, 4096]
    with pytest.raises(ConfigError, match="sliding_window is null"):
        read("dots1", sliding_window=None)
