"""Granite 3 (2024): multipliers of the embeddings, the residual branches, the scores and logits."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import AttentionConfig, LayerSpec, MLPConfig, ModelConfig, MoEConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: granite`."""
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
        mlp_bias=reader.flag("mlp_bias", False),
    )
    return granite_model(reader, granite_attention(reader), mlp)


def granite_attention(reader: ConfigReader) -> AttentionConfig:
    """Attention whose scale is a key of its own; the default is one."""
    bias = reader.flag("attention_bias", False)
    return read_attention(
        reader,
        read_rope(reader),
        qkv_bias=bias,
        out_bias=bias,
        scale=reader.number("attention_multiplier", 1.0),
    )


def granite_model(
    reader: ConfigReader, attention: AttentionConfig, mlp: MLPConfig | MoEConfig
) -> ModelConfig:
    """The model around equal layers, with its multipliers."""
    scale = reader.number("residual_multiplier", 1.0)
    layer = LayerSpec(attention, mlp, attention_scale=scale, mlp_scale=scale)
    config = model_config(
        reader,
        [layer] * reader.size("num_hidden_layers"),
        embed_scale=reader.number("embedding_multiplier", 1.0),
    )
    return replace(config, logit_scale=1 / reader.number("logits_scaling", 1.0))


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
