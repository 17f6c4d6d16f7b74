"""Mistral (Jiang et al. 2023): Llama with a sliding window on every layer."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config, read_attention, with_windows
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import LayerSpec, MLPConfig, ModelConfig


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: mistral`."""
    spec = LayerSpec(
        read_attention(reader, read_rope(reader)),
        MLPConfig(
            ffn_size=reader.size("intermediate_size"),
            activation=reader.activation("hidden_act", "silu"),
        ),
    )
    window = reader.optional_size("sliding_window")
    return model_config(reader, with_windows(spec, [window] * reader.size("num_hidden_layers")))


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
