"""Hunyuan V1: norms behind the rope, and a rope whose base is stretched by alpha."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, RopeKind, UnsupportedError
from tests.parity.golden import raw_config


def layers(name, **changes):
    return read_config(raw_config(name, **changes)).layers


def rope_of(name, **changes):
    return layers(name, **changes)[0].attention.rope


def test_queries_and_keys_are_normed_behind_the_rope():
    assert all(spec.attention.qk_norm_after_rope for spec in layers("hunyuan_v1_dense"))


def test_alpha_stretches_the_base_of_a_fixed_rope():
    rope = rope_of("hunyuan_v1_dense_hub")
    assert rope.scaling.kind is RopeKind.DEFAULT
    assert rope.theta == pytest.approx(10000.0 * 1000.0 ** (24 / 22))


def test_without_alpha_dynamic_is_dynamic():
    old = {"type": "dynamic", "factor": 2.0}
    rope = rope_of("hunyuan_v1_dense_hub", rope_scaling=old)
    assert (rope.scaling.kind, rope.scaling.factor) == (RopeKind.DYNAMIC, 2.0)
    assert rope.theta == 10000.0


@pytest.mark.parametrize("alpha", [-1.0, 0, True, "1000"])
def test_alpha_must_be_a_positive_number(alpha):
    with pytest.raises(ConfigError, match="rope alpha"):
        rope_of("hunyuan_v1_dense_hub", rope_scaling={"type": "dynamic", "alpha": alpha})


def test_alpha_belongs_to_the_dynamic_type_and_to_no_unknown_key():
    with pytest.raises(ConfigError, match="not of type dynamic"):
        rope_of("hunyuan_v1_dense_hub", rope_scaling={"type": "yarn", "alpha": 2.0})
    old = {"type": "dynamic", "alpha": 2.0, "gamma": 1.0}
    with pytest.raises(ConfigError, match="does not know gamma"):
        rope_of("hunyuan_v1_dense_hub", rope_scaling=old)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_cla", True),
        ("mlp_bias", True),
        ("norm_type", "layer"),
        ("use_qk_norm", False),
        ("use_rotary_pos_emb", False),
    ],
)
def test_options_that_no_released_file_has_are_refused_by_name(key, value):
    with pytest.raises(UnsupportedError, match=key):
        layers("hunyuan_v1_dense_hub", **{key: value})


def test_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match="moe_topk = 2"):
        layers("hunyuan_v1_dense", moe_topk=2)
