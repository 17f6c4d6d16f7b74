"""Gemma 2 (2024): four norms a layer, alternating windows, soft caps, scaled embeddings."""

from __future__ import annotations

import math

from ferrum_jax.models.families.common import (
    gemma_layer,
    model_config,
    read_attention,
    with_windows,
)
from ferrum_jax.models.families.layout import SANDWICH_NORMS, Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import MLPConfig, ModelConfig, NormKind


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: gemma2`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(
        reader,
        read_rope(reader),
        head_dim=256,
        qkv_bias=bias,
        out_bias=bias,
        scale=reader.number("query_pre_attn_scalar", 256) ** -0.5,
        soft_cap=reader.optional_number("attn_logit_softcapping"),
    )
    # The activation is always hidden_activation's; older files carry a hidden_act besides.
    reader.ignore("hidden_act")
    reader.must_be_off("use_bidirectional_attention")
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_activation", "gelu_pytorch_tanh"),
    )
    count, window = reader.size("num_hidden_layers"), reader.size("sliding_window", 4096)
    reader.must_be("sliding_window_size", window)
    default = ["full_attention" if i % 2 else "sliding_attention" for i in range(count)]
    kinds = reader.layer_types(count, default)
    windows = [window if kind == "sliding_attention" else None for kind in kinds]
    return model_config(
        reader,
        with_windows(gemma_layer(attention, mlp), windows),
        tie_embeddings=True,
        embed_scale=math.sqrt(reader.size("hidden_size")),
        final_norm=NormKind.RMS_UNIT_OFFSET,
        final_soft_cap=reader.optional_number("final_logit_softcapping"),
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout(norms=SANDWICH_NORMS))
