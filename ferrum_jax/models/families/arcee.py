"""Arcee AFM (2025): Llama with a block that has no gate and the square of a ReLU."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: arcee`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(reader, read_rope(reader), qkv_bias=bias, out_bias=bias)
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size", 18432),
        activation=reader.activation("hidden_act", "relu2"),
        gated=False,
        mlp_bias=reader.flag("mlp_bias", False),
    )
    layers = (LayerSpec(attention, mlp),) * reader.size("num_hidden_layers", 32)
    return model_config(reader, layers, eps=1e-5)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout(up=("mlp.up_proj",)))
