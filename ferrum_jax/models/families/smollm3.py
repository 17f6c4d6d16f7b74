"""SmolLM 3 (2025): no rope on every fourth layer, tied."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import ConfigError, LayerSpec, MLPConfig, ModelConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: smollm3`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(
        reader, read_rope(reader, theta=2_000_000.0), qkv_bias=bias, out_bias=bias
    )
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
        mlp_bias=reader.flag("mlp_bias", False),
    )
    turned = _turned(reader)
    layers = [
        LayerSpec(replace(attention, rope=attention.rope if rope else None, window=window), mlp)
        for rope, window in zip(turned, _windows(reader, turned), strict=True)
    ]
    return model_config(reader, layers, tie_embeddings=True)


def _turned(reader: ConfigReader) -> tuple[bool, ...]:
    """Which layers have a rope: a list of 0 and 1, or all but every so-manieth."""
    count = reader.size("num_hidden_layers")
    period = reader.size("no_rope_layer_interval", 4)
    listed = reader.indices("no_rope_layers")
    if not listed:
        return tuple((i + 1) % period != 0 for i in range(count))
    if len(listed) < count:
        raise ConfigError(
            f"{reader.where}: no_rope_layers lists {len(listed)} layers; the model has {count}"
        )
    return tuple(bool(rope) for rope in listed[:count])


def _windows(reader: ConfigReader, turned: tuple[bool, ...]) -> list[int | None]:
    """By `layer_types`, else on the layers without a rope, where windows are on."""
    reader.ignore("max_window_layers")
    window = reader.optional_size("sliding_window")
    on = reader.flag("use_sliding_window", False) and window is not None
    default = ["sliding_attention" if on and not rope else "full_attention" for rope in turned]
    kinds = reader.layer_types(len(turned), default)
    if not on and "sliding_attention" in kinds:
        raise ConfigError(
            f"{reader.where}: layer_types has sliding layers, but use_sliding_window is false or "
            "there is no sliding_window; set both or make every layer full_attention"
        )
    return [window if kind == "sliding_attention" else None for kind in kinds]


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
