"""MiniMax M2: norms over the projection, partial rope, and keys of older models."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import QKNormOver, RouterKind, UnsupportedError
from tests.parity.golden import raw_config


def read(name, **changes):
    return read_config(raw_config(name, **changes))


def test_the_part_of_a_head_that_turns_in_both_spellings():
    assert read("minimax_m2").layers[0].attention.rope.rotary_fraction == 1
    assert read("minimax_m2_options").layers[0].attention.rope.rotary_fraction == 0.25
    assert read("minimax_m2_hub").layers[0].attention.rope.rotary_fraction == 0.5


def test_norms_and_router():
    spec = read("minimax_m2_hub").layers[0]
    assert spec.attention.qk_norm_over is QKNormOver.PROJECTION
    assert (spec.mlp.router, spec.mlp.choice_bias) == (RouterKind.SIGMOID, True)
    assert spec.mlp.norm_topk
    assert spec.mlp.shared is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qk_norm_type", "per_head"),
        ("use_qk_norm", False),
        ("use_routing_bias", False),
        ("scoring_func", "softmax"),
        ("sliding_window", 8),
        ("shared_intermediate_size", 64),
        ("layernorm_mlp_beta", 3.5),
        ("attn_type_list", [0, 1, 1]),
    ],
)
def test_options_that_are_not_run_are_refused_by_name(key, value):
    with pytest.raises(UnsupportedError, match=key):
        read("minimax_m2_hub", **{key: value})
