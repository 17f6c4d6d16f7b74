"""OLMoE and Granite MoE: routers, a clip, multipliers."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import Activation, ConfigError, QKNormOver, RouterKind
from tests.parity.golden import raw_config


def layers(name, **changes):
    return read_config(raw_config(name, **changes)).layers


def test_the_clip_and_the_norms_of_olmoe():
    clipped, free = layers("olmoe")[0].attention, layers("olmoe_hub")[0].attention
    assert (clipped.qkv_clip, free.qkv_clip) == (0.7, None)
    assert clipped.qk_norm_over is QKNormOver.PROJECTION
    assert not clipped.qk_norm_after_rope


def test_whether_chosen_weights_are_divided_by_their_sum():
    assert layers("olmoe_options")[0].mlp.norm_topk
    assert not layers("olmoe", norm_topk_prob=...)[0].mlp.norm_topk


def test_the_number_of_experts_has_two_names_in_olmoe():
    moe = layers("olmoe", num_experts=..., num_local_experts=6)[0].mlp
    assert (moe.num_experts, moe.experts_per_token, moe.ffn_size) == (6, 2, 40)
    defaults = layers("olmoe", num_experts=..., num_experts_per_tok=...)[0].mlp
    assert (defaults.num_experts, defaults.experts_per_token) == (64, 8)


def test_granitemoe_weighs_the_chosen_experts_alone_and_scales_as_granite_does():
    config = read_config(raw_config("granitemoe_options"))
    spec = config.layers[0]
    assert spec.mlp.router is RouterKind.SOFTMAX_OF_CHOSEN
    assert spec.mlp.activation is Activation.GELU
    assert (spec.attention_scale, spec.mlp_scale) == (0.6, 0.6)
    assert (config.embed_scale, spec.attention.scale) == (0.5, 0.4)


@pytest.mark.parametrize("name", ["olmoe", "granitemoe"])
def test_more_experts_chosen_than_there_are(name):
    with pytest.raises(ConfigError, match="num_experts_per_tok = 7 is above the 6 experts"):
        layers(name, num_experts_per_tok=7)


@pytest.mark.parametrize("name", ["olmoe", "granitemoe"])
def test_an_unknown_key_is_refused(name):
    with pytest.raises(ConfigError, match="shared_intermediate_size = 3"):
        layers(name, shared_intermediate_size=3)
