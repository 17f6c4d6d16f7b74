"""OLMoE (Muennighoff et al. 2024): experts on every layer, QK-norm over the whole projection, and
an optional clip of queries, keys and values behind it."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import check_count, model_config
from ferrum_jax.models.families.deepseek_v3 import moe_names
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.olmo2 import olmo_attention
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, ModelConfig, MoEConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: olmoe`."""
    attention = olmo_attention(reader, read_rope(reader))
    clipped = replace(attention, qkv_clip=reader.optional_number("clip_qkv"))
    layers = [LayerSpec(clipped, _experts(reader))] * reader.size("num_hidden_layers")
    return model_config(reader, layers, eps=1e-5)


def _experts(reader: ConfigReader) -> MoEConfig:
    renamed = reader.optional_size("num_local_experts")
    count, chosen = renamed or reader.size("num_experts", 64), reader.size("num_experts_per_tok", 8)
    reader.ignore("num_experts", "output_router_logits", "router_aux_loss_coef")
    check_count(reader, "num_experts_per_tok", chosen, count)
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
        norm_topk=reader.flag("norm_topk_prob", False),
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=moe_names)
