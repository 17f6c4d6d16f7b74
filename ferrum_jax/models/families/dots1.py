"""dots.llm1 (2025): the attention of Qwen 3 and the router of DeepSeek V3."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.deepseek_v3 import dense_then_sparse, read_experts
from ferrum_jax.models.families.glm4_moe import names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.types import ConfigError, MLPConfig, ModelConfig, NormKind

__all__ = ["names", "read"]


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: dots1`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(
        reader, partial_rope(reader), qkv_bias=bias, out_bias=bias, qk_norm=NormKind.RMS
    )
    activation = reader.activation("hidden_act", "silu")
    # The hub's own file names the way of choosing where others name the score.
    reader.must_be("scoring_func", "noaux_tc", "sigmoid")
    experts = read_experts(reader, activation, norm_topk=False)
    dense = MLPConfig(reader.size("intermediate_size", 10944), activation)
    first = reader.index("first_k_dense_replace", 0)
    layers = dense_then_sparse(reader, attention, dense, experts, first)
    return model_config(
        reader,
        [
            replace(spec, attention=replace(attention, window=window))
            for spec, window in zip(layers, _windows(reader), strict=True)
        ],
    )


def _windows(reader: ConfigReader) -> list[int | None]:
    """By `layer_types`, else from `max_window_layers` on where there is a window at all."""
    reader.ignore("use_sliding_window")
    count, first = reader.size("num_hidden_layers"), reader.index("max_window_layers", 62)
    off = reader.get("sliding_window", 4096) is None
    window = None if off else reader.size("sliding_window", 4096)
    default = ["full_attention" if off or i < first else "sliding_attention" for i in range(count)]
    kinds = reader.layer_types(count, default)
    if off and "sliding_attention" in kinds:
        raise ConfigError(
            f"{reader.where}: layer_types has sliding layers, but sliding_window is null; name a "
            "window or make every layer full_attention"
        )
    return [window if kind == "sliding_attention" else None for kind in kinds]
