"""Qwen 2 (Yang et al. 2024): Llama with biases on q, k and v, and windows on later layers."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config, read_attention, with_windows
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import ConfigError, LayerSpec, MLPConfig, ModelConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: qwen2`."""
    reader.must_be_off("use_mrope")
    spec = LayerSpec(
        read_attention(reader, read_rope(reader), qkv_bias=True),
        MLPConfig(
            ffn_size=reader.size("intermediate_size"),
            activation=reader.activation("hidden_act", "silu"),
        ),
    )
    return model_config(reader, with_windows(spec, windows(reader)))


def windows(reader: ConfigReader) -> list[int | None]:
    """Each layer's window: by `layer_types`, else from `max_window_layers` on, where it is on."""
    count = reader.size("num_hidden_layers")
    on = reader.flag("use_sliding_window", False)
    window = reader.optional_size("sliding_window") if on else reader.get("sliding_window", None)
    first = reader.index("max_window_layers", count)
    sliding = on and window is not None
    default = [
        "sliding_attention" if sliding and i >= first else "full_attention" for i in range(count)
    ]
    kinds = reader.layer_types(count, default)
    if not sliding and "sliding_attention" in kinds:
        raise ConfigError(
            f"{reader.where}: layer_types has sliding layers, but use_sliding_window is {on} and "
            f"sliding_window is {window!r}; set both or make every layer full_attention"
        )
    return [window if kind == "sliding_attention" else None for kind in kinds]


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
