"""Llama 4: which layers have a rope, which attend in chunks, and whose queries grow."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError, NormKind, QueryTemperature, UnsupportedError
from tests.parity.golden import raw_config


def read(name, **changes):
    """The config of a case with keys changed; `...` takes a key away."""
    return read_config(raw_config(name, **changes))


def attentions(name, **changes):
    return [spec.attention for spec in read(name, **changes).layers]


def test_every_fourth_layer_has_neither_a_rope_nor_chunks():
    layers = attentions("llama4_text_hub")
    assert [a.rope is None for a in layers] == [False, False, False, True]
    assert [a.chunk for a in layers] == [8, 8, 8, None]
    assert [a.qk_norm for a in layers] == [NormKind.RMS_UNSCALED] * 3 + [None]
    assert layers[3].temperature == QueryTemperature(0.5, 4.0, offset=1.0)
    assert layers[0].temperature is None


def test_a_listed_one_is_a_layer_with_a_rope():
    layers = attentions("llama4_text_hub", no_rope_layers=[0, 1, 0, 1])
    assert [a.rope is None for a in layers] == [True, False, True, False]
    with pytest.raises(ConfigError, match="no_rope_layers has 2 entries"):
        read("llama4_text", no_rope_layers=[1, 0])


def test_types_of_layers_are_independent_of_ropes():
    layers = attentions("llama4_text_layer_types")
    assert [a.chunk for a in layers] == [None, 8, 8]
    assert [a.rope is None for a in layers] == [False, True, False]


def test_chunked_layers_need_a_chunk():
    assert all(a.chunk is None for a in attentions("llama4_text_dense"))
    with pytest.raises(ConfigError, match="attention_chunk_size is null"):
        read("llama4_text", attention_chunk_size=None)


def test_a_kind_of_layer_that_the_type_does_not_have_is_refused():
    with pytest.raises(UnsupportedError, match="sliding_attention"):
        read("llama4_text", layer_types=["sliding_attention"] * 4)


def test_the_dense_and_the_sparse_size():
    layers = read("llama4_text_dense").layers
    assert [spec.mlp.ffn_size for spec in layers] == [112, 40, 112, 40]
    assert layers[1].mlp.shared.ffn_size == 40
    assert layers[1].mlp.weights_scale_input
