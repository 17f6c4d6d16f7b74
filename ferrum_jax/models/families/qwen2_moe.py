"""Qwen 2 MoE (Yang et al. 2024): Qwen 2 with mixtures of experts and a gated shared expert."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import check_count, model_config, read_attention
from ferrum_jax.models.families.experts import expert_names, shared_names
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Linear, Source
from ferrum_jax.types import Activation, ConfigError, LayerSpec, MLPConfig, ModelConfig, MoEConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: qwen2_moe`."""
    attention = read_attention(reader, partial_rope(reader), qkv_bias=reader.flag("qkv_bias", True))
    activation = reader.activation("hidden_act", "silu")
    dense = MLPConfig(reader.size("intermediate_size", 5632), activation)
    experts = _experts(reader, activation)
    step, only_dense = reader.size("decoder_sparse_step", 1), reader.indices("mlp_only_layers")
    return model_config(
        reader,
        [
            LayerSpec(
                replace(attention, window=window),
                dense if i in only_dense or (i + 1) % step else experts,
            )
            for i, window in enumerate(_windows(reader))
        ],
    )


def _windows(reader: ConfigReader) -> list[int | None]:
    """By `layer_types`, else on every other layer before `max_window_layers`, where it is on."""
    count, last = reader.size("num_hidden_layers"), reader.index("max_window_layers", 28)
    on = reader.flag("use_sliding_window", False)
    window = reader.get("sliding_window", 4096)
    if on:
        window = reader.size("sliding_window", 4096)
    default = [
        "sliding_attention" if on and i % 2 == 0 and i < last else "full_attention"
        for i in range(count)
    ]
    kinds = reader.layer_types(count, default)
    if not on and "sliding_attention" in kinds:
        raise ConfigError(
            f"{reader.where}: layer_types has sliding layers, but use_sliding_window is false; "
            "switch it on or make every layer full_attention"
        )
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _experts(reader: ConfigReader, activation: Activation) -> MoEConfig:
    count, chosen = reader.size("num_experts", 60), reader.size("num_experts_per_tok", 4)
    check_count(reader, "num_experts_per_tok", chosen, count)
    reader.ignore("output_router_logits", "router_aux_loss_coef")
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=reader.size("moe_intermediate_size", 1408),
        activation=activation,
        norm_topk=reader.flag("norm_topk_prob", False),
        shared=MLPConfig(reader.size("shared_expert_intermediate_size", 5632), activation),
        shared_gate=True,
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=shared_moe_names)


def shared_moe_names(prefix: str, moe: MoEConfig) -> dict[str, Source]:
    """A router, experts, and one that every token goes through, gated."""
    here = f"{prefix}.mlp"
    return {
        "router": Linear(f"{here}.gate.weight"),
        "shared_gate": Linear(f"{here}.shared_expert_gate.weight"),
        **expert_names(here, moe),
        **shared_names(f"{here}.shared_expert", moe),
    }
