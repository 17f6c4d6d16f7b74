"""Gemma (Gemma Team 2024): `1 + w` norms, scaled embeddings, tied."""

from __future__ import annotations

import math

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import Activation, LayerSpec, MLPConfig, ModelConfig, NormKind


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: gemma`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(
        reader, read_rope(reader), head_dim=256, qkv_bias=bias, out_bias=bias
    )
    reader.must_be_off("use_bidirectional_attention")
    mlp = MLPConfig(ffn_size=reader.size("intermediate_size"), activation=_activation(reader))
    layer = LayerSpec(attention, mlp, norm=NormKind.RMS_UNIT_OFFSET)
    return model_config(
        reader,
        [layer] * reader.size("num_hidden_layers"),
        tie_embeddings=True,
        embed_scale=math.sqrt(reader.size("hidden_size")),
        final_norm=NormKind.RMS_UNIT_OFFSET,
    )


def _activation(reader: ConfigReader) -> Activation:
    """The first files say gelu and mean its tanh form; what else they say is not used."""
    reader.ignore("hidden_activation")
    named = reader.activation("hidden_act", "gelu_pytorch_tanh")
    return Activation.GELU_TANH if named is Activation.GELU else named


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
