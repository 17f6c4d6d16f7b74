"""gpt-oss: sinks, windows on every other layer, and an activation of its own."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import RopeKind, RouterKind, UnsupportedError
from tests.parity.golden import raw_config


def read(name, **changes):
    """The config of a case with keys changed; `...` takes a key away."""
    return read_config(raw_config(name, **changes))


def test_windows_are_on_the_even_layers_where_no_types_are_listed():
    config = read("gpt_oss", layer_types=...)
    assert [spec.attention.window for spec in config.layers] == [8, None, 8, None]
    assert all(spec.attention.sinks for spec in config.layers)


def test_a_file_without_a_rope_has_the_yarn_of_the_model_type():
    rope = read("gpt_oss", rope_parameters=...).layers[0].attention.rope
    assert rope == read("gpt_oss").layers[0].attention.rope
    assert (rope.theta, rope.scaling.kind, rope.scaling.factor) == (150_000, RopeKind.YARN, 32)
    assert not rope.scaling.truncate


def test_the_activation_of_the_experts():
    moe = read("gpt_oss_options").layers[0].mlp
    assert (moe.clamp, moe.swish_alpha, moe.up_offset) == (0.6, 1.3, 1.0)
    assert moe.router is RouterKind.SOFTMAX_OF_CHOSEN
    defaults = read("gpt_oss", swiglu_limit=..., swiglu_alpha=...).layers[0].mlp
    assert (defaults.clamp, defaults.swish_alpha) == (7.0, 1.702)
    assert read("gpt_oss", hidden_act="relu") == read("gpt_oss")


def test_a_quantised_file_is_refused_by_name():
    with pytest.raises(
        UnsupportedError, match="quantization_config has quant_method = 'bitsandbytes'"
    ):
        read("gpt_oss_hub", quantization_config={"quant_method": "bitsandbytes"})
    assert read("gpt_oss_hub", quantization_config={"quant_method": "mxfp4"}) == read("gpt_oss_hub")
