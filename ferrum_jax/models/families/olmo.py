"""OLMo (Groeneveld et al. 2024): Llama with norms without weights, and an optional clip of queries,
keys and values."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind

_NORM, _EPS = NormKind.LAYER_UNSCALED, 1e-5
"""Of every norm, whatever the file says."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: olmo`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(reader, read_rope(reader), qkv_bias=bias, out_bias=bias)
    attention = replace(attention, qkv_clip=reader.optional_number("clip_qkv"))
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
    )
    layers = [LayerSpec(attention, mlp, norm=_NORM)] * reader.size("num_hidden_layers")
    return replace(model_config(reader, layers, final_norm=_NORM), norm_eps=_EPS)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
