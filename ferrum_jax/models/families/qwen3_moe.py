"""Qwen 3 MoE (2025): Qwen 3 with mixtures of experts on some or all layers."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import check_count, model_config, read_attention
from ferrum_jax.models.families.experts import expert_names
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Linear, Source
from ferrum_jax.types import ConfigError, LayerSpec, MLPConfig, ModelConfig, MoEConfig, NormKind


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: qwen3_moe`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(
        reader, read_rope(reader), qkv_bias=bias, out_bias=bias, qk_norm=NormKind.RMS
    )
    # Unlike qwen3, a window applies to every layer, and max_window_layers to none.
    on = reader.flag("use_sliding_window", False)
    window = reader.get("sliding_window", None)
    reader.ignore("max_window_layers")
    attention = replace(attention, window=reader.optional_size("sliding_window") if on else None)
    if on and window is None:
        raise ConfigError(f"{reader.where}: use_sliding_window is true without a sliding_window")
    reader.ignore("output_router_logits", "router_aux_loss_coef")

    activation = reader.activation("hidden_act", "silu")
    dense = LayerSpec(attention, MLPConfig(reader.size("intermediate_size"), activation))
    sparse = LayerSpec(attention, _experts(reader, activation))
    step, only_dense = reader.size("decoder_sparse_step", 1), reader.indices("mlp_only_layers")
    layers = [
        dense if i in only_dense or (i + 1) % step else sparse
        for i in range(reader.size("num_hidden_layers"))
    ]
    return model_config(reader, layers)


def _experts(reader: ConfigReader, activation) -> MoEConfig:
    count = reader.optional_size("num_local_experts") or reader.size("num_experts", 128)
    reader.ignore("num_experts")
    chosen = reader.size("num_experts_per_tok", 8)
    check_count(reader, "num_experts_per_tok", chosen, count)
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=reader.size("moe_intermediate_size"),
        activation=activation,
        norm_topk=reader.flag("norm_topk_prob", False),
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=moe_names)


def moe_names(prefix: str, moe: MoEConfig) -> dict[str, Source]:
    """A router and experts that stand apart."""
    here = f"{prefix}.mlp"
    return {"router": Linear(f"{here}.gate.weight"), **expert_names(here, moe)}
