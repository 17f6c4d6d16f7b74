"""Checkpoints that do not follow Llama's names: every tensor has its place; slopes of ALiBi."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.models.families.common import alibi_slopes
from ferrum_jax.types import Activation, ConfigError, NormKind, QKNormOver
from tests.parity.golden import case_names, raw_config

TYPES = (
    "arcee",
    "bloom",
    "cohere2",
    "falcon",
    "gpt2",
    "gpt_neox",
    "ministral3",
    "nemotron",
    "opt",
    "phi",
    "phi3",
    "phimoe",
    "stablelm",
    "starcoder2",
)


@pytest.mark.parametrize("name", TYPES)
def test_an_unknown_key_is_refused(name):
    with pytest.raises(ConfigError, match="clip_qkv = 3"):
        read_config(raw_config(case_names(name)[0], clip_qkv=3))


def test_slopes_of_a_power_of_two_are_one_series():
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))


def test_slopes_beyond_a_power_of_two_come_from_the_next_series():
    twelve, sixteen = alibi_slopes(12), alibi_slopes(16)
    assert twelve[:8] == alibi_slopes(8)
    assert twelve[8:] == sixteen[:8:2]


@pytest.mark.parametrize("name", ["bloom", "falcon", "gpt2", "opt"])
def test_a_width_that_heads_do_not_divide_is_refused(name):
    key = {"bloom": "n_head", "gpt2": "n_head"}.get(name, "num_attention_heads")
    with pytest.raises(ConfigError, match="no multiple of 7 heads"):
        read_config(raw_config(name, **{key: 7}))


@pytest.mark.parametrize(
    ("name", "fraction"),
    [("gpt_neox", 0.25), ("nemotron", 0.5), ("phi", 0.5), ("stablelm", 0.25), ("phi3", 1.0)],
)
def test_the_part_of_a_head_that_turns_where_the_file_names_none(name, fraction):
    config = read_config(raw_config(name, rope_parameters=None))
    assert config.layers[0].attention.rope.rotary_fraction == fraction


@pytest.mark.parametrize("name", ["arcee", "nemotron"])
def test_blocks_without_a_gate_and_a_squared_relu(name):
    mlp = read_config(raw_config(name)).layers[0].mlp
    assert not mlp.gated
    assert mlp.activation is Activation.RELU_SQUARED


def test_nemotron_norms_add_one_and_have_a_bias():
    config = read_config(raw_config("nemotron"))
    assert config.final_norm is config.layers[0].norm is NormKind.LAYER_UNIT_OFFSET


def test_stablelm_norms_each_head_with_weights_of_its_own():
    attention = read_config(raw_config("stablelm_parallel")).layers[0].attention
    assert attention.qk_norm is NormKind.LAYER_UNBIASED
    assert attention.qk_norm_over is QKNormOver.EACH_HEAD
    assert read_config(raw_config("stablelm")).layers[0].attention.qk_norm is None


def test_stablelm_has_one_norm_a_layer_where_it_is_parallel():
    for name, parallel in (("stablelm_parallel", True), ("stablelm", False)):
        spec = read_config(raw_config(name)).layers[0]
        assert spec.parallel is spec.shared_norm is parallel


def test_starcoder2_slides_one_window_over_every_layer():
    config = read_config(raw_config("starcoder2"))
    assert [spec.attention.window for spec in config.layers] == [8, 8, 8]
    assert (
        read_config(raw_config("starcoder2", sliding_window=None)).layers[0].attention.window
        is None
    )
