"""Qwen 3 Next (2025): three gated delta layers to one of gated attention, with experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from ferrum_jax.models.families.common import check_count, model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.mamba2 import only_silu
from ferrum_jax.models.families.qwen2_moe import shared_moe_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Joined, Linear, Plain, Source, View, depthwise
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    GatedDeltaConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormKind,
    RopeConfig,
)

LINEAR, FULL = "linear_attention", "full_attention"
Projections = Callable[[str, GatedDeltaConfig, int], dict[str, Source]]
"""From a layer's prefix and spec the table of its parameters, norms excepted."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: qwen3_next`."""
    activation = only_silu(reader, "hidden_act")
    dense, experts = MLPConfig(reader.size("intermediate_size", 5632), activation), _experts(reader)
    step, only_dense = reader.size("decoder_sparse_step", 1), reader.indices("mlp_only_layers")
    layers = [
        replace(spec, mlp=dense if i in only_dense or (i + 1) % step else experts)
        for i, spec in enumerate(read_mixers(reader))
    ]
    return delta_model(reader, layers)


def delta_model(reader: ConfigReader, layers: list[LayerSpec]) -> ModelConfig:
    """The whole model; the figures that transformers multiplies by are `1 + w`."""
    return model_config(reader, layers, final_norm=NormKind.RMS_UNIT_OFFSET)


def read_mixers(reader: ConfigReader) -> list[LayerSpec]:
    """A layer each, without its feed-forward block.

    Raises:
        UnsupportedError: biases in the attention.
    """
    reader.must_be_off("attention_bias", "use_sliding_window")
    attention = read_attention(
        reader, _rope(reader), head_dim=256, qk_norm=NormKind.RMS_UNIT_OFFSET
    )
    norm = NormKind.RMS_UNIT_OFFSET
    specs = {
        FULL: LayerSpec(replace(attention, out_gate=True), norm=norm),
        LINEAR: LayerSpec(recurrent=_delta(reader), norm=norm),
    }
    interval, count = reader.size("full_attention_interval", 4), reader.size("num_hidden_layers")
    default = [LINEAR if (i + 1) % interval else FULL for i in range(count)]
    return [specs[kind] for kind in reader.layer_types(count, default, (FULL, LINEAR))]


def _rope(reader: ConfigReader) -> RopeConfig:
    """A quarter of a head turns by default.

    The sections of a rope for images are dropped: the positions of text are alike in all three.
    """
    raw = reader.get("rope_parameters", None) or reader.get("rope_scaling", None) or {}
    sections = ("mrope_interleaved", "mrope_section")
    kept = {key: value for key, value in raw.items() if key not in sections}
    return partial_rope(reader, kept, fraction=0.25)


def _delta(reader: ConfigReader) -> GatedDeltaConfig:
    keys, values = (
        reader.size("linear_num_key_heads", 16),
        reader.size("linear_num_value_heads", 32),
    )
    if values % keys:
        raise ConfigError(
            f"{reader.where}: linear_num_value_heads = {values} is no multiple of "
            f"linear_num_key_heads = {keys}"
        )
    return GatedDeltaConfig(
        num_key_heads=keys,
        num_value_heads=values,
        key_dim=reader.size("linear_key_head_dim", 128),
        value_dim=reader.size("linear_value_head_dim", 128),
        conv_size=reader.size("linear_conv_kernel_dim", 4),
        norm_eps=reader.number("rms_norm_eps", 1e-6),
    )


def _experts(reader: ConfigReader) -> MoEConfig:
    count, chosen = reader.size("num_experts", 512), reader.size("num_experts_per_tok", 10)
    check_count(reader, "num_experts_per_tok", chosen, count)
    reader.ignore("output_router_logits", "router_aux_loss_coef")
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=reader.size("moe_intermediate_size", 512),
        norm_topk=reader.flag("norm_topk_prob", True),
        shared=MLPConfig(reader.size("shared_expert_intermediate_size", 512)),
        shared_gate=True,
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return delta_names(config, _delta_names)


def delta_names(config: ModelConfig, projections: Projections) -> dict[str, Source]:
    """The table of gated attention and the gated delta rule, whose input projections each model
    type lays out anew."""
    width = config.hidden_size

    def delta(prefix: str, rule: GatedDeltaConfig) -> dict[str, Source]:
        here = f"{prefix}.linear_attn"
        return {
            "conv": depthwise(f"{here}.conv1d.weight", rule.conv_channels, rule.conv_size),
            "dt_bias": Plain(f"{here}.dt_bias"),
            "A_log": Plain(f"{here}.A_log"),
            "norm": Plain(f"{here}.norm.weight"),
            "out": Linear(f"{here}.out_proj.weight", inputs=2),
            **projections(here, rule, width),
        }

    return weight_names(
        config, attention=partial(_attention_names, width), recurrent=delta, moe=shared_moe_names
    )


@dataclass(frozen=True)
class RowBlocks(View):
    """A run of rows out of each block of a projection, held as `[in, blocks, rows]`."""

    blocks: tuple[int, int, int] = (0, 0, 0)
    """`(blocks, rows of a block, in)`"""

    @classmethod
    def of(cls, name: str, blocks: tuple[int, int, int], start: int, stop: int) -> RowBlocks:
        """RowBlocks `start` to `stop` of each block."""
        count, rows, width = blocks
        cut = (1, start, stop, 1)
        return cls(name, (count * rows, width), cut=cut, order=(2, 0, 1), blocks=blocks)

    def fill(self, out: np.ndarray, index: int, stored: np.ndarray) -> None:
        super().fill(out, index, stored.reshape(self.blocks))

    def put(self, full: np.ndarray, value: np.ndarray, index: int) -> None:
        """Write the parameter to its part of the tensor."""
        super().put(full.reshape(self.blocks), value, index)


def _attention_names(width: int, prefix: str, spec: AttentionConfig) -> dict[str, Source]:
    """Each head of `q_proj` has its query and then its gate."""
    here = f"{prefix}.self_attn"
    q, k, v = (f"{here}.{x}_proj.weight" for x in "qkv")
    head, per_kv = spec.head_dim, spec.num_heads // spec.num_kv_heads
    blocks = (spec.num_heads, 2 * head, width)
    queries = RowBlocks.of(q, blocks, 0, head)
    return {
        "qkv": Joined((queries, Linear(k), Linear(v)), (per_kv, 1, 1), axis=2),
        "gate": RowBlocks.of(q, blocks, head, 2 * head),
        "o": Linear(f"{here}.o_proj.weight", inputs=2),
        "q_norm.weight": Plain(f"{here}.q_norm.weight"),
        "k_norm.weight": Plain(f"{here}.k_norm.weight"),
    }


def _delta_names(here: str, delta: GatedDeltaConfig, width: int) -> dict[str, Source]:
    """Each key head has its query, its key, and the values and gates that share them."""
    heads, key = delta.num_key_heads, delta.key_dim
    shared = delta.num_value_heads // heads
    values = shared * delta.value_dim
    joined, scalars = f"{here}.in_proj_qkvz.weight", f"{here}.in_proj_ba.weight"
    blocks, pairs = (heads, 2 * key + 2 * values, width), (heads, 2 * shared, width)
    ends = (0, key, 2 * key, 2 * key + values, 2 * key + 2 * values)
    q, k, v, gate = (RowBlocks.of(joined, blocks, *run) for run in pairwise(ends))
    return {
        "qkv": Joined((q, k, v), (heads * key, heads * key, heads * values), axis=1),
        "gate": gate,
        "beta": RowBlocks.of(scalars, pairs, 0, shared),
        "decay": RowBlocks.of(scalars, pairs, shared, 2 * shared),
    }
