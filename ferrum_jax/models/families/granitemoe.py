"""Granite MoE (2024): Granite with experts, weighted by a softmax over the chosen ones."""

from __future__ import annotations

from functools import partial

from ferrum_jax.models.families.common import check_count
from ferrum_jax.models.families.granite import granite_attention, granite_model
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Linear, Source, View
from ferrum_jax.types import ModelConfig, MoEConfig, RouterKind


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: granitemoe`."""
    experts, chosen = reader.size("num_local_experts", 8), reader.size("num_experts_per_tok", 2)
    check_count(reader, "num_experts_per_tok", chosen, experts)
    reader.ignore("output_router_logits", "router_aux_loss_coef")
    moe = MoEConfig(
        num_experts=experts,
        experts_per_token=chosen,
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
        router=RouterKind.SOFTMAX_OF_CHOSEN,
        norm_topk=False,
    )
    return granite_model(reader, granite_attention(reader), moe)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=partial(fused_expert_names, config.hidden_size))


def fused_expert_names(width: int, prefix: str, moe: MoEConfig) -> dict[str, Source]:
    """Experts that stand in one tensor, gate and up projection one below the other."""
    block, turned = f"{prefix}.block_sparse_moe", (0, 2, 1)
    size, stored = moe.ffn_size, f"{block}.input_linear.weight"
    joined = (moe.num_experts, 2 * size, width)
    return {
        "router": Linear(f"{block}.router.layer.weight"),
        "gate": View(stored, joined, cut=(1, 0, size, 1), order=turned),
        "up": View(stored, joined, cut=(1, size, 2 * size, 1), order=turned),
        "down": View(f"{block}.output_linear.weight", (moe.num_experts, width, size), order=turned),
    }
