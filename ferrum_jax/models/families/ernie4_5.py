"""ERNIE 4.5, dense (Baidu 2025): Llama with a rope of pairs and one key for every bias."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: ernie4_5`."""
    bias = reader.flag("use_bias", False)
    attention = read_attention(
        reader,
        replace(read_rope(reader, theta=500_000.0), interleaved=True),
        head_dim=reader.get("head_dim", 128),  # null is hidden / heads
        qkv_bias=bias,
        out_bias=bias,
    )
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
        mlp_bias=bias,
    )
    layers = (LayerSpec(attention, mlp),) * reader.size("num_hidden_layers")
    return model_config(reader, layers, tie_embeddings=True, eps=1e-5)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
