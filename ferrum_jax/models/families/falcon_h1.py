"""Falcon H1 (TII 2025): attention and Mamba 2 beside each other, with muP multipliers."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.bamba import LAYOUT, beside_attention, hybrid_config, read_mixer
from ferrum_jax.models.families.common import read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import ConfigError, LayerSpec, Mamba2Config, MLPConfig, ModelConfig

_IGNORED = (
    "mamba_chunk_size",
    "mamba_use_mlp",
    "mlp_expansion_factor",
    "num_logits_to_keep",
    "time_step_floor",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: falcon_h1`."""
    reader.ignore(*_IGNORED)
    reader.must_be_off("attn_layer_indices", "sliding_window")
    bias = reader.flag("attention_bias", False)
    attention = replace(
        read_attention(reader, read_rope(reader), qkv_bias=bias, out_bias=bias),
        input_scale=reader.number("attention_in_multiplier", 1.0),
        key_scale=reader.number("key_multiplier", 1.0),
    )
    gate, down = _multipliers(reader, "mlp_multipliers", 2)
    mlp = MLPConfig(
        reader.size("intermediate_size"),
        reader.activation("hidden_act", "silu"),
        mlp_bias=reader.flag("mlp_bias", False),
        gate_scale=gate,
        down_scale=down,
    )
    layer = LayerSpec(
        attention,
        mlp,
        _mixer(reader),
        attention_scale=reader.number("attention_out_multiplier", 1.0),
        recurrent_scale=reader.number("ssm_out_multiplier", 1.0),
    )
    return hybrid_config(
        reader,
        [layer] * reader.size("num_hidden_layers"),
        max_positions=8192,
        embed_scale=reader.number("embedding_multiplier", 1.0),
        logit_scale=reader.number("lm_head_multiplier", 1.0),
    )


def _mixer(reader: ConfigReader) -> Mamba2Config:
    """Bamba's, with an inner size of its own, multipliers, and a norm only where asked for."""
    expanded = reader.size("mamba_expand", 2) * reader.size("hidden_size")
    named = reader.get("mamba_d_ssm", 1024)
    inner = expanded if named is None else reader.size("mamba_d_ssm", 1024)
    mixer = read_mixer(reader, inner, state_size=256)
    gate_first = not reader.flag("mamba_norm_before_gate", True)
    normed = reader.flag("mamba_rms_norm", False)
    return replace(
        mixer,
        out_bias=reader.flag("projectors_bias", False),
        norm_eps=mixer.norm_eps if normed else None,
        gate_first=gate_first,
        input_scale=reader.number("ssm_in_multiplier", 1.0),
        part_scales=_multipliers(reader, "ssm_multipliers", 5),
    )


def _multipliers(reader: ConfigReader, key: str, count: int) -> tuple[float, ...]:
    values = reader.get(key, None) or [1.0] * count
    good = isinstance(values, list) and len(values) == count
    if not good or not all(isinstance(x, int | float) for x in values):
        raise ConfigError(f"{reader.where}: {key} is {values!r}; it must list {count} numbers")
    return tuple(float(x) for x in values)


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, LAYOUT, recurrent=beside_attention)
