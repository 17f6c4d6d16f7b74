"""Mixtral (Jiang et al. 2024): Mistral with a mixture of experts on every layer."""

from __future__ import annotations

from ferrum_jax.models.families.common import (
    check_count,
    model_config,
    read_attention,
    with_windows,
)
from ferrum_jax.models.families.experts import NUMBERED, expert_names
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Linear, Source
from ferrum_jax.types import LayerSpec, ModelConfig, MoEConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: mixtral`."""
    experts, chosen = reader.size("num_local_experts", 8), reader.size("num_experts_per_tok", 2)
    check_count(reader, "num_experts_per_tok", chosen, experts)
    reader.ignore("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
    spec = LayerSpec(
        read_attention(reader, read_rope(reader, theta=1e6)),
        MoEConfig(
            num_experts=experts,
            experts_per_token=chosen,
            ffn_size=reader.size("intermediate_size"),
            activation=reader.activation("hidden_act", "silu"),
        ),
    )
    window = reader.optional_size("sliding_window")
    return model_config(
        reader, with_windows(spec, [window] * reader.size("num_hidden_layers")), eps=1e-5
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=numbered_expert_names)


def numbered_expert_names(prefix: str, moe: MoEConfig) -> dict[str, Source]:
    """A router and experts whose projections have numbers."""
    block = f"{prefix}.block_sparse_moe"
    return {"router": Linear(f"{block}.gate.weight"), **expert_names(block, moe, NUMBERED)}
