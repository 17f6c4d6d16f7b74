"""Nemotron 4 and Minitron (Parmar et al. 2024): `1 + w` LayerNorm, half of each head turns, no
gate, the square of a ReLU."""

from __future__ import annotations

from ferrum_jax.models.families.common import layer_norm_model, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig, NormKind

_NORM = NormKind.LAYER_UNIT_OFFSET


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: nemotron`."""
    bias = reader.flag("attention_bias", False)
    rope = partial_rope(reader, fraction=0.5)
    attention = read_attention(reader, rope, qkv_bias=bias, out_bias=bias)
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "relu2"),
        gated=False,
        mlp_bias=reader.flag("mlp_bias", False),
    )
    layers = (LayerSpec(attention, mlp, norm=_NORM),) * reader.size("num_hidden_layers")
    return layer_norm_model(reader, layers, "norm_eps")


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout(up=("mlp.up_proj",)))
