"""GPT-2 and GPT-NeoX: scales, positions, blocks side by side, and what is refused."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import Activation, UnsupportedError
from tests.parity.golden import raw_config


def scales(name):
    return [spec.attention.scale for spec in read_config(raw_config(name)).layers]


def test_gpt2_divides_scores_by_the_layer_where_it_is_told_to():
    assert scales("gpt2") == [16**-0.5] * 3
    assert scales("gpt2_layer_scale") == [16**-0.5, 16**-0.5 / 2, 16**-0.5 / 3]
    assert scales("gpt2_unscaled") == [1.0] * 3


def test_gpt2_has_a_row_for_each_position_and_ties_unless_told_otherwise():
    config = read_config(raw_config("gpt2_hub"))
    assert (config.max_positions, config.learned_positions, config.position_offset) == (64, 64, 0)
    assert config.tie_embeddings
    assert not read_config(raw_config("gpt2_layer_scale")).tie_embeddings


def test_the_inner_size_of_gpt2_is_four_times_the_width():
    assert read_config(raw_config("gpt2")).layers[0].mlp.ffn_size == 192
    assert read_config(raw_config("gpt2_layer_scale")).layers[0].mlp.ffn_size == 80


def test_gpt2_that_reads_another_text_is_refused():
    with pytest.raises(UnsupportedError, match="add_cross_attention"):
        read_config(raw_config("gpt2", add_cross_attention=True))


def test_the_rope_of_old_neox_files():
    rope = read_config(raw_config("gpt_neox_hub")).layers[0].attention.rope
    assert (rope.theta, rope.rotary_fraction) == (20_000, 0.25)


def test_neox_runs_its_blocks_side_by_side_with_two_norms():
    spec = read_config(raw_config("gpt_neox")).layers[0]
    assert spec.parallel
    assert not spec.shared_norm
    assert not read_config(raw_config("gpt_neox_sequential")).layers[0].parallel


def test_neox_without_attention_bias_keeps_that_of_the_feed_forward_block():
    spec = read_config(raw_config("gpt_neox_sequential")).layers[0]
    assert (spec.attention.qkv_bias, spec.attention.out_bias) == (False, False)
    assert spec.mlp.mlp_bias
    assert spec.mlp.activation is Activation.GELU_TANH


@pytest.mark.parametrize(("key", "value"), [("rope_theta", 500.0), ("partial_rotary_factor", 1.0)])
def test_the_rope_of_neox_under_names_that_it_does_not_read_may_only_repeat(key, value):
    same = {"rope_theta": 20_000, "partial_rotary_factor": 0.25}
    assert read_config(raw_config("gpt_neox_hub", **same)) == read_config(
        raw_config("gpt_neox_hub")
    )
    with pytest.raises(UnsupportedError, match=key):
        read_config(raw_config("gpt_neox_hub", **{key: value}))
