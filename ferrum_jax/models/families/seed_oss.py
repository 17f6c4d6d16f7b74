"""Seed-OSS (ByteDance 2025): Llama with biased queries, keys and values."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: seed_oss`."""
    attention = read_attention(
        reader,
        read_rope(reader),
        head_dim=reader.get("head_dim", 128),  # null is hidden / heads
        qkv_bias=reader.flag("attention_bias", True),
        out_bias=reader.flag("attention_out_bias", False),
    )
    reader.ignore("residual_dropout")
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
        mlp_bias=reader.flag("mlp_bias", False),
    )
    layers = (LayerSpec(attention, mlp),) * reader.size("num_hidden_layers")
    return model_config(reader, layers)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
