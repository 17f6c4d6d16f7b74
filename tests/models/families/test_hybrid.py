"""Bamba, Granite 4, Falcon H1 and Nemotron H: what each layer is made of."""

import math

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    Mamba2Config,
    MLPConfig,
    MoEConfig,
    RouterKind,
    UnsupportedError,
)
from tests.parity.golden import raw_config

TYPES = ("bamba", "granitemoehybrid", "falcon_h1", "nemotron_h")


def blocks(name, **changes):
    """Per layer the letters of its blocks: attention, recurrence, MLP, experts."""
    letters = {AttentionConfig: "a", Mamba2Config: "r", MLPConfig: "m", MoEConfig: "e"}
    return [
        "".join(letters.get(type(b), "") for b in (spec.attention, spec.recurrent, spec.mlp))
        for spec in read_config(raw_config(name, **changes)).layers
    ]


def test_what_the_layers_are():
    assert blocks("bamba") == ["rm", "am", "rm"]
    assert blocks("bamba", attn_layer_indices=None) == ["rm"] * 3
    assert blocks("granitemoehybrid") == ["re", "ae", "re"]
    assert blocks("granitemoehybrid", num_local_experts=0) == ["rm", "am", "rm"]
    assert blocks("granitemoehybrid", layer_types=None) == ["re"] * 3
    assert blocks("falcon_h1") == ["arm"] * 3
    assert blocks("nemotron_h") == ["r", "e", "a", "m"]


def test_old_and_new_names_of_layers_mean_the_same():
    old = {"layer_types": ["mamba", "attention", "mamba"]}
    assert blocks("granitemoehybrid", **old) == blocks("granitemoehybrid")
    listed = {"layers_block_type": ["mamba", "moe", "attention", "mlp"]}
    assert blocks("nemotron_h", **listed) == blocks("nemotron_h")
    pattern = {"layers_block_type": None, "hybrid_override_pattern": "ME*-"}
    assert blocks("nemotron_h", **pattern) == blocks("nemotron_h")


def test_half_of_a_head_turns_in_bamba():
    def fraction(**changes):
        return read_config(raw_config("bamba", **changes)).layers[1].attention.rope.rotary_fraction

    old = {"rope_parameters": None, "rope_theta": 1e4}
    assert fraction() == fraction(**old) == fraction(**old, partial_rotary_factor=0.25) == 0.5
    inner = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    assert fraction(rope_parameters=inner) == 0.25


def test_the_multipliers_of_granite():
    config = read_config(raw_config("granitemoehybrid"))
    assert (config.embed_scale, config.logit_scale) == (6.0, 1 / 1.5)
    assert config.layers[1].attention.scale == 0.4
    for spec in config.layers:
        assert spec.attention_scale == spec.recurrent_scale == spec.mlp_scale == 0.6


def test_granite_has_positions_only_where_it_says_rope():
    def rope(**changes):
        return read_config(raw_config("granitemoehybrid", **changes)).layers[1].attention.rope

    assert rope() is None
    assert rope(position_embedding_type="nope") is None
    assert rope(position_embedding_type="rope") is not None
    with pytest.raises(UnsupportedError, match="alibi"):
        rope(position_embedding_type="alibi")


def test_granite_weighs_the_chosen_experts_by_their_softmax():
    experts = read_config(raw_config("granitemoehybrid")).layers[0].mlp
    assert experts.router is RouterKind.SOFTMAX_OF_CHOSEN
    assert (experts.ffn_size, experts.shared.ffn_size) == (40, 48)
    with pytest.raises(ConfigError, match="num_experts_per_tok"):
        read_config(raw_config("granitemoehybrid", num_experts_per_tok=9))


def test_the_multipliers_of_falcon_h1():
    config = read_config(raw_config("falcon_h1"))
    spec = config.layers[0]
    assert (config.embed_scale, config.logit_scale) == (5.0, 0.7)
    assert (spec.attention.input_scale, spec.attention.key_scale) == (1.3, 1.4)
    assert (spec.attention_scale, spec.recurrent_scale) == (0.8, 0.9)
    assert (spec.recurrent.input_scale, spec.recurrent.part_scales[3]) == (1.2, 0.6)
    assert (spec.mlp.gate_scale, spec.mlp.down_scale) == (1.6, 0.75)


def test_the_norm_of_falcon_h1_is_optional():
    def mixer(**changes):
        return read_config(raw_config("falcon_h1", **changes)).layers[0].recurrent

    assert mixer().norm_eps is None
    assert mixer(mamba_rms_norm=True).norm_eps == 1e-3
    assert not mixer(mamba_rms_norm=True).gate_first
    assert mixer(mamba_rms_norm=True, mamba_norm_before_gate=False).gate_first


@pytest.mark.parametrize("value", [[1.0], "11111", [1.0] * 4 + ["1"]])
def test_five_multipliers_are_five_numbers(value):
    with pytest.raises(ConfigError, match="ssm_multipliers"):
        read_config(raw_config("falcon_h1", ssm_multipliers=value))


def test_nemotron_h_reads_the_least_time_step_and_no_other_limit():
    mixer = read_config(raw_config("nemotron_h_options")).layers[1].recurrent
    assert (mixer.dt_min, mixer.dt_max) == (0.6, math.inf)


def test_the_attention_of_nemotron_h_has_no_positions():
    assert read_config(raw_config("nemotron_h")).layers[2].attention.rope is None


def test_a_biased_latent_mixture_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="moe_latent_size"):
        read_config(raw_config("nemotron_h_options", mlp_bias=True))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("bamba", "hidden_act"),
        ("granitemoehybrid", "hidden_act"),
        ("falcon_h1", "hidden_act"),
        ("nemotron_h", "mamba_hidden_act"),
    ],
)
def test_another_activation_behind_the_convolution_is_refused_by_name(name, key):
    with pytest.raises(UnsupportedError, match=f"{key} is 'gelu'"):
        read_config(raw_config(name, **{key: "gelu"}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("granitemoehybrid", {"layer_types": ["mamba", "conv", "mamba"]}),
        ("nemotron_h", {"layers_block_type": ["mamba", "conv"]}),
        ("nemotron_h", {"layers_block_type": None, "hybrid_override_pattern": "MX"}),
        ("falcon_h1", {"attn_layer_indices": [1]}),
    ],
)
def test_layers_of_another_kind_are_refused(name, changes):
    with pytest.raises(UnsupportedError, match=r"conv|X|attn_layer_indices"):
        read_config(raw_config(name, **changes))


@pytest.mark.parametrize("name", TYPES)
def test_an_unknown_key_is_refused(name):
    with pytest.raises(ConfigError, match="surprise"):
        read_config(raw_config(name, surprise=1))
