"""Gemma 3, text (2025): QK-norm, five windowed layers to a full one, a rope for each kind."""

from __future__ import annotations

import math
from dataclasses import replace

from ferrum_jax.models.families.common import gemma_layer, model_config, read_attention
from ferrum_jax.models.families.layout import SANDWICH_NORMS, Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import parse_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import ConfigError, MLPConfig, ModelConfig, NormKind, RopeConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: gemma3_text`."""
    bias = reader.flag("attention_bias", False)
    full_rope, sliding_rope = _ropes(reader)
    attention = read_attention(
        reader,
        full_rope,
        head_dim=256,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=NormKind.RMS_UNIT_OFFSET,
        scale=reader.number("query_pre_attn_scalar", 256) ** -0.5,
    )
    # transformers has the field and never applies it in this model's attention.
    reader.ignore("attn_logit_softcapping")
    reader.ignore("hidden_act")
    reader.must_be_off("use_bidirectional_attention")
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_activation", "gelu_pytorch_tanh"),
    )
    window = reader.size("sliding_window", 4096)
    full = gemma_layer(attention, mlp)
    sliding = replace(full, attention=replace(attention, window=window, rope=sliding_rope))
    kinds = reader.layer_types(reader.size("num_hidden_layers"), _default_types(reader))
    return model_config(
        reader,
        [sliding if kind == "sliding_attention" else full for kind in kinds],
        tie_embeddings=True,
        embed_scale=math.sqrt(reader.size("hidden_size")),
        final_norm=NormKind.RMS_UNIT_OFFSET,
        final_soft_cap=reader.optional_number("final_logit_softcapping"),
    )


def _default_types(reader: ConfigReader) -> list[str]:
    reader.ignore("_sliding_window_pattern")
    period = reader.size("sliding_window_pattern", reader.get("_sliding_window_pattern", 6))
    return [
        "sliding_attention" if (i + 1) % period else "full_attention"
        for i in range(reader.size("num_hidden_layers"))
    ]


def _ropes(reader: ConfigReader) -> tuple[RopeConfig, RopeConfig]:
    """The ropes of full and of sliding layers, from the nested spelling or the older flat one."""
    theta = reader.number("rope_theta", 1e6)
    local = reader.number("rope_local_base_freq", 1e4)
    old = reader.get("rope_scaling", None) or {}
    nested = reader.get("rope_parameters", None)
    if nested is None:
        return parse_rope(reader, old, theta), parse_rope(reader, {}, local)
    if not isinstance(nested, dict):
        raise ConfigError(f"{reader.where}: rope_parameters is {nested!r}; it must be an object")
    if unknown := sorted(nested.keys() - {"full_attention", "sliding_attention"}):
        raise ConfigError(
            f"{reader.where}: rope_parameters names {', '.join(unknown)}; "
            "this model type has full_attention and sliding_attention"
        )
    full, sliding = nested.get("full_attention", {}), nested.get("sliding_attention", {})
    return parse_rope(reader, full, theta), parse_rope(reader, sliding, local)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout(norms=SANDWICH_NORMS))
