"""EXAONE 4.0 (2025): norms after the blocks, QK-norm; with windows, full layers have no rope."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.olmo2 import names, post_norm_layer
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.types import ConfigError, ModelConfig, NormKind

__all__ = ["names", "read"]


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: exaone4`."""
    attention = read_attention(reader, read_rope(reader), qk_norm=NormKind.RMS)
    window = reader.size("sliding_window", 4096) if _windowed(reader) else None
    sliding = post_norm_layer(reader, replace(attention, window=window))
    full = post_norm_layer(reader, attention if window is None else replace(attention, rope=None))
    kinds = reader.layer_types(reader.size("num_hidden_layers"), _default_types(reader))
    if window is None and "sliding_attention" in kinds:
        raise ConfigError(
            f"{reader.where}: layer_types has sliding layers and sliding_window is null; "
            "give a window or make every layer full_attention"
        )
    return model_config(
        reader, [sliding if kind == "sliding_attention" else full for kind in kinds], eps=1e-5
    )


def _windowed(reader: ConfigReader) -> bool:
    return reader.get("sliding_window", 4096) is not None


def _default_types(reader: ConfigReader) -> list[str]:
    """Every so-manieth layer is full. A pattern in letters stands beside the layer types."""
    count, pattern = reader.size("num_hidden_layers"), reader.get("sliding_window_pattern", 4)
    if not _windowed(reader) or reader.get("layer_types", None):
        return ["full_attention"] * count
    if isinstance(pattern, str):
        raise ConfigError(
            f"{reader.where}: sliding_window_pattern is {pattern!r} and there are no layer_types; "
            "list them, or give the pattern as a number"
        )
    period = reader.size("sliding_window_pattern", 4)
    return ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(count)]
