"""LFM2: which layers attend, and how wide the feed-forward block is."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, NormKind, UnsupportedError
from tests.parity.golden import load_case


def raw(name="lfm2", **changes):
    """The config.json of a case, with keys changed."""
    return load_case(name).config | changes


def attending(**changes):
    layers = read_config(raw(**changes)).layers
    assert all((spec.attention is None) != (spec.recurrent is None) for spec in layers)
    return [i for i, spec in enumerate(layers) if spec.attention is not None]


def test_which_layers_attend():
    assert attending() == [2]
    assert attending(layer_types=None, full_attn_idxs=[0, 3]) == [0, 3]
    assert attending(layer_types=None, full_attn_idxs=None) == [0, 1, 2, 3]


def test_the_list_of_types_beats_the_indices():
    assert attending(full_attn_idxs=[0]) == [2]


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 80),  # 2/3 of 120 is a multiple of 16
        ({"block_multiple_of": 24}, 96),
        ({"block_ffn_dim_multiplier": 1.3}, 112),  # 104, rounded up
        ({"block_ffn_dim_multiplier": None, "block_multiple_of": 24}, 80),
        ({"block_ff_dim": 100}, 80),  # 66, rounded up
        ({"block_auto_adjust_ff_dim": False}, 120),
        ({"block_auto_adjust_ff_dim": False, "block_ff_dim": 100}, 100),
    ],
)
def test_the_feed_forward_size(changes, size):
    assert {spec.mlp.ffn_size for spec in read_config(raw(**changes)).layers} == {size}


def test_queries_and_keys_are_normed():
    assert read_config(raw()).layers[2].attention.qk_norm is NormKind.RMS


def test_either_spelling_unties_the_embeddings():
    assert read_config(raw()).tie_embeddings
    assert not read_config(raw(tie_word_embeddings=False)).tie_embeddings
    assert not read_config(raw(tie_embedding=False)).tie_embeddings
    assert read_config(raw(tie_word_embeddings=False, tie_embedding=True)).tie_embeddings


def test_a_layer_of_another_type_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="sliding_attention"):
        read_config(raw(layer_types=["conv", "conv", "sliding_attention", "conv"]))


def test_types_of_too_few_layers_are_refused():
    with pytest.raises(ConfigError, match="4 layers"):
        read_config(raw(layer_types=["conv"]))


def test_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match="surprise"):
        read_config(raw(surprise=1))
