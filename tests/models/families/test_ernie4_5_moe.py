"""ERNIE 4.5 MoE: a corrected softmax router, biases everywhere but in the experts."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, RouterKind, UnsupportedError
from tests.parity.golden import raw_config


def read(name, **changes):
    return read_config(raw_config(name, **changes))


def test_the_router():
    moe = read("ernie4_5_moe_bias").layers[3].mlp
    assert (moe.router, moe.choice_bias) == (RouterKind.SOFTMAX, True)
    assert moe.norm_floor == 0.6


def test_one_switch_for_all_biases_but_those_of_experts():
    config = read("ernie4_5_moe_bias")
    sparse, dense = config.layers[3], config.layers[0].mlp
    assert config.unembed_bias
    assert dense.mlp_bias
    assert sparse.mlp.shared.mlp_bias
    assert sparse.attention.qkv_bias
    assert sparse.attention.out_bias
    assert not sparse.mlp.expert_bias
    assert not read("ernie4_5_moe").unembed_bias


def test_shared_experts_are_one_block_or_none():
    assert read("ernie4_5_moe").layers[1].mlp.shared.ffn_size == 80
    assert read("ernie4_5_moe_unshared").layers[1].mlp.shared is None


def test_rope_pairs_are_neighbours():
    assert all(spec.attention.rope.interleaved for spec in read("ernie4_5_moe").layers)


@pytest.mark.parametrize(("key", "value"), [("moe_gate", "sinkhorn"), ("moe_use_aux_free", False)])
def test_options_that_are_not_run_are_refused_by_name(key, value):
    with pytest.raises(UnsupportedError, match=key):
        read("ernie4_5_moe_hub", **{key: value})


def test_a_floor_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="moe_norm_min"):
        read("ernie4_5_moe", moe_norm_min="small")
