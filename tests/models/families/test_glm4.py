"""GLM 4: the order of its norms, biases, and the part of a head that turns."""

import pytest

from ferrum_jax.models.families import FAMILIES, read_config
from ferrum_jax.types import ConfigError, NormPlacement, RopeKind
from tests.parity.golden import raw_config


def layers(name, **changes):
    return read_config(raw_config(name, **changes)).layers


def test_half_of_a_head_turns_in_pairs_unless_the_file_says_otherwise():
    rope = layers("glm4")[0].attention.rope
    assert rope.interleaved
    assert rope.rotary_fraction == 0.5
    other = layers("glm4_options")[0].attention.rope
    assert (other.rotary_fraction, other.scaling.kind) == (0.25, RopeKind.YARN)
    assert layers("glm4_hub", partial_rotary_factor=...)[0].attention.rope.rotary_fraction == 0.5


def test_queries_keys_and_values_are_biased_by_default_and_outputs_never():
    default, off = layers("glm4", attention_bias=...)[0], layers("glm4_options")[0]
    assert (default.attention.qkv_bias, default.attention.out_bias) == (True, False)
    assert (off.attention.qkv_bias, off.attention.out_bias) == (False, False)


def test_norms_stand_on_both_sides_under_names_of_their_own():
    config = read_config(raw_config("glm4"))
    assert config.layers[0].placement is NormPlacement.SANDWICH
    table = FAMILIES["glm4"].names(config)
    stored = {key: table[f"layers.1.{key}.weight"].names[0] for key in NORMS}
    assert stored == {key: f"model.layers.1.{name}.weight" for key, name in NORMS.items()}


NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_post_norm": "post_self_attn_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}


def test_a_head_has_128_elements_by_default():
    assert layers("glm4", head_dim=...)[0].attention.head_dim == 128


def test_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match="use_qk_norm = True"):
        layers("glm4", use_qk_norm=True)
