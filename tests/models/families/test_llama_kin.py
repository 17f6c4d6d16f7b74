"""Seed-OSS, ERNIE 4.5 and Apertus: biases, heads, ropes and activations unlike Llama."""

import pytest

from ferrum_jax.models.families import FAMILIES, read_config
from ferrum_jax.models.shapes import flatten_shapes
from ferrum_jax.types import Activation, ConfigError, RopeKind, UnsupportedError
from tests.parity.golden import case_names, load_case, raw_config

APERTUS = case_names("apertus")


def layers(name, **changes):
    return read_config(raw_config(name, **changes)).layers


@pytest.mark.parametrize("name", APERTUS)
def test_of_apertus_only_the_constants_of_xielu_have_no_place(name):
    golden = load_case(name)
    config = read_config(golden.config, name)
    table = FAMILIES["apertus"].names(config)
    unread = golden.tensors.keys() - {t for source in table.values() for t in source.names}
    assert table.keys() == flatten_shapes(config).keys()
    xielu = config.layers[0].mlp.activation is Activation.XIELU
    assert len(unread) == (2 * config.num_layers if xielu else 0)
    assert all(tensor.endswith(("act_fn.beta", "act_fn.eps")) for tensor in unread)


def biases(name, **changes):
    spec = layers(name, **changes)[0]
    return spec.attention.qkv_bias, spec.attention.out_bias, spec.mlp.mlp_bias


def test_the_biases_of_seed_oss_are_three_keys():
    assert biases("seed_oss", attention_bias=..., attention_out_bias=...) == (True, False, False)
    assert biases("seed_oss_options") == (False, True, True)


def test_the_biases_of_ernie_are_one_key():
    assert biases("ernie4_5", use_bias=...) == (False, False, False)
    assert biases("ernie4_5_options") == (True, True, True)


@pytest.mark.parametrize("name", ["seed_oss", "ernie4_5"])
def test_a_head_is_128_by_default_and_a_null_shares_out_the_width(name):
    assert layers(name, head_dim=...)[0].attention.head_dim == 128
    assert layers(name, head_dim=None)[0].attention.head_dim == 16


def test_ernie_turns_pairs_from_a_base_of_its_own_and_ties():
    config = read_config(raw_config("ernie4_5_hub", rope_theta=..., tie_word_embeddings=...))
    rope = config.layers[0].attention.rope
    assert (rope.interleaved, rope.theta) == (True, 500_000.0)
    assert config.tie_embeddings


def test_an_apertus_file_without_a_rope_has_that_of_llama_3():
    rope = layers("apertus", rope_parameters=None)[0].attention.rope
    scaling = rope.scaling
    assert (rope.theta, scaling.kind, scaling.factor) == (12e6, RopeKind.LLAMA3, 8.0)
    assert scaling.original_max_positions == 8192
    assert rope == layers("apertus")[0].attention.rope == layers("apertus_hub")[0].attention.rope


def test_apertus_has_no_gate_and_xielu_by_default():
    mlp = layers("apertus", hidden_act=...)[0].mlp
    assert (mlp.gated, mlp.activation) == (False, Activation.XIELU)
    assert layers("apertus_options")[0].mlp.activation is Activation.RELU_SQUARED


@pytest.mark.parametrize(("key", "value"), [("qk_norm", False), ("post_norm", True)])
def test_options_that_apertus_was_never_released_with_are_refused(key, value):
    with pytest.raises(UnsupportedError, match=key):
        layers("apertus_hub", **{key: value})


@pytest.mark.parametrize("name", ["seed_oss", "ernie4_5", "apertus"])
def test_an_unknown_key_is_refused(name):
    with pytest.raises(ConfigError, match="clip_qkv = 3"):
        layers(name, clip_qkv=3)
