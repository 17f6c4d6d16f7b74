"""Phi 3.5 MoE (Abdin et al. 2024): LayerNorm, and two experts a token, each chosen and weighed by
a softmax over the logits close to the largest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ferrum_jax.models.families.common import model_config, read_attention, with_windows
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.mixtral import numbered_expert_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import parse_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import (
    ConfigError,
    LayerSpec,
    ModelConfig,
    MoEConfig,
    NormKind,
    RopeConfig,
    RouterKind,
)

_MSCALES = ("short_mscale", "long_mscale")
_ORIGINAL = "original_max_position_embeddings"


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: phimoe`."""
    bias = reader.flag("attention_bias", False)
    attention = read_attention(reader, _rope(reader), qkv_bias=bias, out_bias=bias)
    # Noise in training, and its loss.
    reader.ignore("input_jitter_noise", "hidden_dropout")
    reader.ignore("output_router_logits", "router_aux_loss_coef")
    spec = LayerSpec(attention, _experts(reader), norm=NormKind.LAYER)
    window = reader.optional_size("sliding_window")
    config = model_config(
        reader,
        with_windows(spec, [window] * reader.size("num_hidden_layers")),
        eps=1e-5,
        final_norm=NormKind.LAYER,
    )
    return replace(config, unembed_bias=reader.flag("lm_head_bias", False))


def _experts(reader: ConfigReader) -> MoEConfig:
    # The router makes two choices, whatever the file says.
    reader.must_be("num_experts_per_tok", 2)
    return MoEConfig(
        num_experts=reader.size("num_local_experts", 16),
        experts_per_token=2,
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
        norm_topk=False,
        router=RouterKind.SPARSE_MIXER,
        router_jitter=reader.number("router_jitter_noise", 0.01),
    )


def _rope(reader: ConfigReader) -> RopeConfig:
    """Cosines and sines are multiplied by one figure within the trained length, by another beyond.

    The frequencies keep the short factors at any length, as in transformers.
    """
    raw: dict[str, Any] = dict(
        reader.get("rope_parameters", None) or reader.get("rope_scaling", None) or {}
    )
    reader.ignore("rope_scaling")
    inner, original = raw.get(_ORIGINAL), reader.optional_size(_ORIGINAL)
    if None not in (inner, original) and inner != original:
        raise ConfigError(
            f"{reader.where}: {_ORIGINAL} is {original}, and {inner} in the rope; it must be one"
        )
    theta = reader.get("rope_theta", None) or 1_000_000.0
    if raw.get("rope_type", raw.get("type", "default")) == "default":
        return parse_rope(reader, raw, theta)
    missing = [key for key in _MSCALES if not isinstance(raw.get(key), int | float)]
    if missing:
        raise ConfigError(f"{reader.where}: the rope needs {' and '.join(missing)}")
    short, long = (float(raw.pop(key)) for key in _MSCALES)
    if original is not None:
        raw[_ORIGINAL] = original
    if "short_factor" in raw:
        raw["long_factor"] = raw["short_factor"]
    rope = parse_rope(reader, raw, theta)
    return replace(
        rope,
        scaling=replace(rope.scaling, attention_factor=short, long_attention_factor=long),
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=numbered_expert_names)
