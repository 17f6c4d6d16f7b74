"""OLMo 2 (OLMo Team 2025): norms after the blocks, QK-norm over the whole projection."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import (
    AttentionConfig,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    NormKind,
    NormPlacement,
    QKNormOver,
    RopeConfig,
)

POST_NORMS = {
    "mixer_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
"""Our norms by the name that a post-norm checkpoint gives them."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: olmo2`."""
    layer = post_norm_layer(reader, olmo_attention(reader, read_rope(reader)))
    return model_config(reader, [layer] * reader.size("num_hidden_layers"), eps=1e-5)


def olmo_attention(reader: ConfigReader, rope: RopeConfig) -> AttentionConfig:
    """Attention of OLMo 2, OLMo 3 and OLMoE."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(reader, rope, qkv_bias=bias, out_bias=bias, qk_norm=NormKind.RMS)
    return replace(attention, qk_norm_over=QKNormOver.PROJECTION)


def post_norm_layer(reader: ConfigReader, attention: AttentionConfig) -> LayerSpec:
    """A layer that norms what its blocks return, and not what they are given."""
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
    )
    return LayerSpec(attention, mlp, placement=NormPlacement.POST)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout(norms=POST_NORMS))
