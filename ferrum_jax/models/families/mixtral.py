"""Mixtral (Jiang et al. 2024): Mistral with a mixture of experts on every layer."""

from __future__ import annotations

from ferrum_jax.models.families.common import (
    model_config,
    read_attention,
    weight_names,
    with_windows,
)
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Linear, Source, Stacked
from ferrum_jax.types import ConfigError, LayerSpec, ModelConfig, MoEConfig

EXPERT_NAMES = {"gate": "w1", "down": "w2", "up": "w3"}


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: mixtral`."""
    experts, chosen = reader.size("num_local_experts", 8), reader.size("num_experts_per_tok", 2)
    if chosen > experts:
        raise ConfigError(
            f"{reader.where}: num_experts_per_tok = {chosen} is above the {experts} experts"
        )
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
    return weight_names(config, moe=_moe_names)


def _moe_names(prefix: str, experts: int) -> dict[str, Source]:
    block = f"{prefix}.block_sparse_moe"
    table: dict[str, Source] = {"router": Linear(f"{block}.gate.weight")}
    for ours, theirs in EXPERT_NAMES.items():
        table[ours] = Stacked(tuple(f"{block}.experts.{e}.{theirs}.weight" for e in range(experts)))
    return table
