"""Qwen 3 (2025): RMSNorm on every query and key head; head size 128 unless named."""

from __future__ import annotations

from ferrum_jax.models.families import qwen2
from ferrum_jax.models.families.common import model_config, read_attention, with_windows
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: qwen3`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(
        reader,
        read_rope(reader),
        head_dim=128,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=NormKind.RMS,
    )
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
    )
    return model_config(reader, with_windows(LayerSpec(attention, mlp), qwen2.windows(reader)))


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
