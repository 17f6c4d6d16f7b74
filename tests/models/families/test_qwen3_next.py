"""Qwen 3 Next and Qwen 3.5: what their configs mean, what is refused, where the weights stand."""

import numpy as np
import pytest

from ferrum_jax.models.families import read_config
from ferrum_jax.models.families.qwen3_next import RowBlocks
from ferrum_jax.models.weights.sources import Joined, Linear
from ferrum_jax.types import ConfigError, GatedDeltaConfig, MoEConfig, NormKind, UnsupportedError
from tests.parity.golden import case_names, load_case, raw_config

TYPES = ("qwen3_next", "qwen3_5_text")
GOLDENS = [name for model_type in TYPES for name in case_names(model_type)]


def config_of(name, **changes):
    return read_config(raw_config(name, **changes))


def test_every_fourth_layer_attends_where_the_file_lists_none():
    raw = {k: v for k, v in load_case("qwen3_next_hub").config.items() if k != "layer_types"}
    layers = read_config(raw | {"num_hidden_layers": 9}).layers
    assert [i for i, spec in enumerate(layers) if spec.attention is not None] == [3, 7]
    halves = read_config(raw | {"full_attention_interval": 2}).layers
    assert [i for i, spec in enumerate(halves) if spec.attention is not None] == [1, 3]


def test_the_list_of_layers_wins_over_the_interval():
    kinds = ["full_attention", "linear_attention", "linear_attention", "full_attention"]
    layers = config_of("qwen3_next_hub", layer_types=kinds).layers
    assert [spec.recurrent is None for spec in layers] == [True, False, False, True]


def test_layers_are_dense_by_name_and_by_the_step():
    layers = config_of("qwen3_next_options", decoder_sparse_step=2, mlp_only_layers=[3]).layers
    assert [isinstance(spec.mlp, MoEConfig) for spec in layers] == [False, True, False, False]


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5_text"])
def test_a_quarter_of_a_head_turns_unless_the_file_says_otherwise(name):
    raw = dict(load_case(name).config)
    rope = {k: v for k, v in raw["rope_parameters"].items() if k != "partial_rotary_factor"}
    attention = read_config(raw | {"rope_parameters": rope}).layers[3].attention
    assert attention.rope.rotary_fraction == 0.25
    halved = rope | {"partial_rotary_factor": 0.5}
    attention = read_config(raw | {"rope_parameters": halved}).layers[3].attention
    assert attention.rope.rotary_fraction == 0.5


def test_attention_is_gated_and_norms_multiply_by_one_more():
    config = config_of("qwen3_5_text")
    attention = config.layers[3].attention
    assert attention.out_gate
    assert attention.qk_norm is NormKind.RMS_UNIT_OFFSET
    assert {spec.norm for spec in config.layers} == {NormKind.RMS_UNIT_OFFSET}
    assert config.final_norm is NormKind.RMS_UNIT_OFFSET


def test_sections_of_the_rope_change_nothing_for_text():
    with_sections = config_of("qwen3_5_text_hub")
    raw = load_case("qwen3_5_text_hub").config
    rope = {k: v for k, v in raw["rope_parameters"].items() if not k.startswith("mrope")}
    assert with_sections == read_config(raw | {"rope_parameters": rope})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("qwen3_next", "attention_bias", True),
        ("qwen3_next", "use_sliding_window", True),
        ("qwen3_next", "hidden_act", "gelu"),
        ("qwen3_next", "layer_types", ["sliding_attention"] * 4),
        ("qwen3_5_text", "attention_bias", True),
        ("qwen3_5_text", "attn_output_gate", False),
        ("qwen3_5_text", "hidden_act", "gelu"),
    ],
)
def test_options_that_are_not_run_are_refused_by_name(name, key, value):
    with pytest.raises(UnsupportedError, match=key):
        config_of(name, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("linear_num_value_heads", 3), ("num_experts_per_tok", 7), ("layer_types", ["linear"])],
)
def test_contradictions_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=key):
        config_of("qwen3_next", **{key: value})


def test_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match="linear_gate_rank"):
        config_of("qwen3_next", linear_gate_rank=4)


def test_the_delta_rule_reads_its_sizes():
    recurrent = config_of("qwen3_next").layers[0].recurrent
    assert recurrent == GatedDeltaConfig(2, 4, 12, 16, 4, norm_eps=1e-3)


def test_runs_of_rows_come_apart_and_together_again():
    """Two key heads of three; each with a query of 3, a key of 3, and 4 values and gates."""
    whole = np.arange(2 * 14 * 5, dtype=np.float32).reshape(28, 5)
    runs = [RowBlocks.of("x", (2, 14, 5), *run) for run in ((0, 3), (3, 6), (6, 10))]
    mixed, gate = Joined(tuple(runs), (6, 6, 8), axis=1), RowBlocks.of("x", (2, 14, 5), 10, 14)
    held = np.empty((5, 20), np.float32), np.empty((5, 2, 4), np.float32)
    for index in range(3):
        mixed.fill(held[0], index, whole)
    gate.fill(held[1], 0, whole)
    by_head = whole.reshape(2, 14, 5)
    queries, keys, values = by_head[:, :3], by_head[:, 3:6], by_head[:, 6:10]
    parts = [part.reshape(-1, 5) for part in (queries, keys, values)]
    np.testing.assert_array_equal(held[0], np.concatenate(parts).T)
    np.testing.assert_array_equal(held[1], np.moveaxis(by_head[:, 10:], -1, 0))
    again = np.zeros_like(whole)
    for index in range(3):
        mixed.put(again, held[0], index)
    gate.put(again, held[1], 0)
    np.testing.assert_array_equal(again, whole)


def test_queries_and_gates_come_apart_and_together_again():
    """Four query heads of three over two kv heads; five inputs."""
    stored = np.arange(4 * 2 * 3 * 5, dtype=np.float32).reshape(24, 5)
    queries, gate = RowBlocks.of("q", (4, 6, 5), 0, 3), RowBlocks.of("q", (4, 6, 5), 3, 6)
    heads = Joined((queries, Linear("k"), Linear("v")), (2, 1, 1), axis=2)
    held = np.zeros((5, 2, 4, 3), np.float32), np.empty((5, 4, 3), np.float32)
    heads.fill(held[0], 0, stored)
    gate.fill(held[1], 0, stored)
    by_head = stored.reshape(2, 2, 2, 3, 5)
    np.testing.assert_array_equal(held[0][:, :, :2], np.moveaxis(by_head[:, :, 0], -1, 0))
    np.testing.assert_array_equal(held[1], np.moveaxis(by_head[:, :, 1].reshape(4, 3, 5), -1, 0))
    again = np.zeros_like(stored)
    heads.put(again, held[0], 0)
    gate.put(again, held[1], 0)
    np.testing.assert_array_equal(again, stored)
