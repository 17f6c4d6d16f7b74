"""Llama (Touvron et al. 2023): pre-norm RMSNorm, rope, grouped queries, SwiGLU."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: llama`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(reader, read_rope(reader), qkv_bias=bias, out_bias=bias)
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
        mlp_bias=reader.flag("mlp_bias", False),
    )
    # Of SmolLM's converter, which has turned its weights already.
    reader.ignore("is_llama_config")
    reader.must_be("rope_interleaved", False)
    layers = (LayerSpec(attention, mlp),) * reader.size("num_hidden_layers")
    return model_config(reader, layers)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
