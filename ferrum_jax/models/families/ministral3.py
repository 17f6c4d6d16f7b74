"""Ministral 3 (2025): Mistral whose queries grow with the logarithm of their position."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ferrum_jax.models.families.common import model_config, read_attention, with_windows
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import parse_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import ConfigError, LayerSpec, MLPConfig, ModelConfig, QueryTemperature

_BETA = "llama_4_scaling_beta"
_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    _BETA: 0.1,
}
"""Of a file that has no rope of its own."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: ministral3`."""
    raw = _raw_rope(reader)
    temperature = _temperature(reader, raw)
    rope = parse_rope(reader, {k: v for k, v in raw.items() if k != _BETA}, 10_000.0)
    attention = replace(read_attention(reader, rope, head_dim=128), temperature=temperature)
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
    )
    window = reader.optional_size("sliding_window")
    layers = with_windows(LayerSpec(attention, mlp), [window] * reader.size("num_hidden_layers"))
    return model_config(reader, layers, eps=1e-5)


def _raw_rope(reader: ConfigReader) -> dict[str, Any]:
    raw = reader.get("rope_parameters", None) or _ROPE
    # Of the model, and repeated in the rope without a use there.
    return {k: v for k, v in raw.items() if k != "max_position_embeddings"}


def _temperature(reader: ConfigReader, raw: dict[str, Any]) -> QueryTemperature:
    beta, length = raw.get(_BETA), raw.get("original_max_position_embeddings")
    if not isinstance(beta, int | float) or not isinstance(length, int):
        raise ConfigError(
            f"{reader.where}: rope_parameters needs {_BETA} and original_max_position_embeddings, "
            "by which the queries grow"
        )
    return QueryTemperature(beta=float(beta), length=float(length))


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config)
