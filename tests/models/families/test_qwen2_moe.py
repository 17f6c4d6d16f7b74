"""Qwen 2 MoE: windows on every other early layer, a gated shared expert."""

import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.types import ConfigError
from tests.parity.golden import raw_config


def read(name, **changes):
    """The config of a case with keys changed; `...` takes a key away."""
    return read_config(raw_config(name, **changes))


def test_windows_are_on_every_other_layer_before_the_last_with_one():
    config = read("qwen2_moe_window", layer_types=...)
    assert [spec.attention.window for spec in config.layers] == [8, None, 8, None, None]
    config = read("qwen2_moe_hub")
    assert all(spec.attention.window is None for spec in config.layers)


def test_sliding_layers_need_the_window_switched_on():
    with pytest.raises(ConfigError, match="use_sliding_window is false"):
        read("qwen2_moe_layer_types", use_sliding_window=False)


def test_the_shared_expert_has_a_gate_and_a_size_of_its_own():
    moe = read("qwen2_moe").layers[0].mlp
    assert moe.shared_gate
    assert (moe.ffn_size, moe.shared.ffn_size, moe.norm_topk) == (40, 56, False)


def test_biases_are_on_unless_the_file_takes_them_away():
    assert read("qwen2_moe", qkv_bias=...).layers[0].attention.qkv_bias
    assert not read("qwen2_moe_window").layers[0].attention.qkv_bias
