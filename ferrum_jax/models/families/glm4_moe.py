"""GLM 4.5 (2025): half of each head turns, optional QK-norm, the router of DeepSeek V3."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.deepseek_v3 import dense_then_sparse, moe_names, read_experts
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import MLPConfig, ModelConfig, NormKind


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: glm4_moe`."""
    attention = read_attention(
        reader,
        partial_rope(reader, fraction=0.5),
        qkv_bias=reader.flag("attention_bias", False),
        qk_norm=NormKind.RMS if reader.flag("use_qk_norm", False) else None,
    )
    activation = reader.activation("hidden_act", "silu")
    experts = read_experts(reader, activation, count=128, chosen=8, shared=1, norm_topk=True)
    dense = MLPConfig(reader.size("intermediate_size", 10944), activation)
    first = reader.index("first_k_dense_replace", 1)
    layers = dense_then_sparse(reader, attention, dense, experts, first)
    return model_config(reader, layers, eps=1e-5)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=moe_names)
