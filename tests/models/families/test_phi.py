"""Phi, Phi 3 and PhiMoE: ropes, windows, the router, and what is refused."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, NormKind, RopeKind, RouterKind, UnsupportedError
from tests.parity.golden import raw_config


def attention(name, **changes):
    """How the first layer attends."""
    return read_config(raw_config(name, **changes)).layers[0].attention


def scaling(name, **changes):
    return attention(name, **changes).rope.scaling


def test_phi_is_parallel_behind_one_norm_and_its_logits_have_a_bias():
    config = read_config(raw_config("phi"))
    assert config.unembed_bias
    assert config.layers[0].parallel
    assert config.layers[0].shared_norm
    assert config.layers[0].attention.qk_norm is None
    assert attention("phi_qk_layernorm").qk_norm is NormKind.LAYER


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_phi3_calls_longrope_by_three_names(kind):
    rope = raw_config("phi3_hub")["rope_scaling"]
    assert scaling("phi3_hub", rope_scaling=rope | {"type": kind}).kind is RopeKind.LONGROPE


def test_the_trained_length_of_phi3_stands_beside_its_rope():
    assert scaling("phi3_hub").original_max_positions == 32
    inner = raw_config("phi3_hub")["rope_scaling"] | {"original_max_position_embeddings": 8}
    assert scaling("phi3_hub", rope_scaling=inner).original_max_positions == 32


def test_phi3_may_turn_a_part_of_each_head():
    assert attention("phi3_hub").rope.rotary_fraction == 0.5
    assert attention("phi3_hub").window == 262144


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias", "lm_head_bias"])
def test_phi3_with_a_bias_is_refused(key):
    with pytest.raises(UnsupportedError, match=key):
        read_config(raw_config("phi3", **{key: True}))


@pytest.mark.parametrize("key", ["full_attn_mod", "interpolate_factor"])
def test_phi3_with_another_attention_is_refused(key):
    with pytest.raises(UnsupportedError, match=key):
        read_config(raw_config("phi3", **{key: 2}))


def test_phimoe_has_one_figure_within_the_trained_length_and_one_beyond():
    rope = scaling("phimoe_hub")
    assert (rope.attention_factor, rope.long_attention_factor) == (1.1, 1.243163121016122)
    assert rope.original_max_positions == 24
    # As in transformers, which never looks at the long ones.
    assert rope.long_factor == rope.short_factor


def test_the_trained_length_of_phimoe_may_stand_beside_the_rope_and_must_agree_with_it():
    key = "original_max_position_embeddings"
    rope = raw_config("phimoe_hub")["rope_scaling"]
    inner = {k: v for k, v in rope.items() if k != key}
    assert scaling("phimoe_hub", rope_scaling=inner).original_max_positions == 24
    with pytest.raises(ConfigError, match=key):
        read_config(raw_config("phimoe_hub", **{key: 48}))


def test_phimoe_needs_both_figures():
    rope = raw_config("phimoe_hub")["rope_scaling"] | {"long_mscale": None}
    with pytest.raises(ConfigError, match="long_mscale"):
        read_config(raw_config("phimoe_hub", rope_scaling=rope))


def test_the_router_of_phimoe_chooses_twice_and_does_not_normalise():
    config = read_config(raw_config("phimoe"))
    experts = config.layers[0].mlp
    assert experts.router is RouterKind.SPARSE_MIXER
    assert experts.router_jitter == 0.4
    assert not experts.norm_topk
    assert config.unembed_bias
    with pytest.raises(UnsupportedError, match="num_experts_per_tok"):
        read_config(raw_config("phimoe", num_experts_per_tok=3))
