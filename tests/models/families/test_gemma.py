"""Gemma and Gemma 4: activations, shared keys and values, heads of two sizes, per-layer inputs."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import Activation, ConfigError, NormKind, RopeKind, UnsupportedError
from tests.parity.golden import raw_config


def test_gelu_means_its_tanh_form_in_gemma():
    for name in ("gelu", "gelu_pytorch_tanh"):
        config = read_config(raw_config("gemma", hidden_act=name))
        assert config.layers[0].mlp.activation is Activation.GELU_TANH
    assert read_config(raw_config("gemma_options")).layers[0].mlp.activation is Activation.SILU


def test_gemma_norms_add_one_and_embeddings_are_scaled():
    config = read_config(raw_config("gemma_hub"))
    assert config.embed_scale == 48**0.5
    assert config.final_norm is config.layers[0].norm is NormKind.RMS_UNIT_OFFSET


def test_bidirectional_attention_is_refused():
    with pytest.raises(UnsupportedError, match="use_bidirectional_attention"):
        read_config(raw_config("gemma", use_bidirectional_attention=True))
    with pytest.raises(UnsupportedError, match="use_bidirectional_attention"):
        read_config(raw_config("gemma4_text", use_bidirectional_attention="all"))
    read_config(raw_config("gemma4_text", use_bidirectional_attention="vision"))


def attentions(name, **changes):
    return [spec.attention for spec in read_config(raw_config(name, **changes)).layers]


def test_every_sixth_layer_of_gemma4_is_full_and_the_last_always():
    windows = [a.window for a in attentions("gemma4_text", layer_types=None)]
    assert windows == [8] * 5 + [None]
    sliding = ["sliding_attention"] * 6
    assert [a.window for a in attentions("gemma4_text", layer_types=sliding)] == windows


def test_the_last_layers_use_the_last_keys_of_their_kind():
    assert [a.kv_from for a in attentions("gemma4_text_shared")] == [None, None, None, 1, 2, 1]
    sizes = [spec.mlp.ffn_size for spec in read_config(raw_config("gemma4_text_shared")).layers]
    assert sizes == [112, 112, 112, 224, 224, 224]


def test_a_kind_without_a_layer_to_share_from_is_refused():
    with pytest.raises(ConfigError, match="num_kv_shared_layers = 5 of 6 layers leaves no full"):
        attentions("gemma4_text_shared", num_kv_shared_layers=5)


def test_full_layers_have_heads_of_their_own_size_in_both_spellings():
    hub, saved = attentions("gemma4_text_hub_moe"), attentions("gemma4_text_moe")
    assert [(a.head_dim, a.num_kv_heads) for a in hub] == [(16, 2), (16, 2), (32, 1)]
    assert [(a.head_dim, a.num_kv_heads) for a in saved] == [(16, 2), (32, 1)] * 2
    assert [a.values_are_keys for a in saved] == [False, True] * 2


def test_kv_heads_of_full_layers_count_only_where_values_are_keys():
    changes = {"attention_k_eq_v": False}
    assert [a.num_kv_heads for a in attentions("gemma4_text_hub_moe", **changes)] == [2, 2, 2]


def test_an_unknown_size_of_a_layer_is_refused():
    with pytest.raises(ConfigError, match="per_layer_config names sliding_window"):
        attentions("gemma4_text", per_layer_config={"0": {"sliding_window": 4}})
    with pytest.raises(ConfigError, match="layers from 0 to 5"):
        attentions("gemma4_text", per_layer_config={"6": {"head_dim": 32}})


def test_a_quarter_of_the_frequencies_of_a_full_head_turns():
    sliding, full = attentions("gemma4_text_hub_moe")[1:]
    assert sliding.rope.scaling.kind is RopeKind.DEFAULT
    assert sliding.rope.theta == 1e4
    assert full.rope.scaling.kind is RopeKind.PROPORTIONAL
    assert full.rope.theta == 1e6
    assert full.rope.rotary_fraction == 0.25
    assert {a.scale for a in (sliding, full)} == {1.0}


def test_per_layer_inputs_and_experts_are_there_where_the_file_asks():
    dense, sparse = (
        read_config(raw_config("gemma4_text_hub")),
        read_config(raw_config("gemma4_text_moe")),
    )
    assert dense.per_layer_size == 12
    assert dense.per_layer_vocab == 96
    assert dense.layers[0].per_layer_input is Activation.GELU_TANH
    assert dense.layers[0].experts_beside is None
    assert sparse.per_layer_size is None
    assert sparse.layers[0].per_layer_input is None
    assert sparse.layers[0].experts_beside.experts_per_token == 2


@pytest.mark.parametrize("name", ["gemma", "gemma4_text"])
def test_an_unknown_key_is_refused(name):
    with pytest.raises(ConfigError, match="clip_qkv = 3"):
        read_config(raw_config(name, clip_qkv=3))
