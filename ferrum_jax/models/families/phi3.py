"""Phi 3 and Phi 4 (Abdin et al. 2024): Llama with joined projections, a rope that may turn a part
of each head only, and factors of its frequencies that change beyond the trained length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ferrum_jax.models.families.common import grouped, model_config, read_attention, with_windows
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Joined, Source, View
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    RopeConfig,
)

_OLD_NAMES = ("su", "yarn")
"""What files of this model type have called longrope."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: phi3`."""
    attention = read_attention(reader, RopeConfig())
    attention = replace(attention, rope=_rope(reader, attention.head_dim))
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
    )
    reader.ignore("embd_pdrop", "resid_pdrop")
    reader.must_be_off("attention_bias", "mlp_bias", "lm_head_bias")
    for key in ("full_attn_mod", "interpolate_factor"):
        reader.must_be(key, 1)
    window = reader.optional_size("sliding_window")
    layers = with_windows(LayerSpec(attention, mlp), [window] * reader.size("num_hidden_layers"))
    return model_config(reader, layers, eps=1e-5)


def _rope(reader: ConfigReader, head_dim: int) -> RopeConfig:
    raw: dict[str, Any] = dict(
        reader.get("rope_parameters", None) or reader.get("rope_scaling", None) or {}
    )
    kind = raw.pop("type", "default")
    kind = raw.get("rope_type", kind)
    raw["rope_type"] = "longrope" if kind in _OLD_NAMES else kind
    original = reader.size("original_max_position_embeddings", 4096)
    if raw["rope_type"] == "longrope":
        raw["original_max_position_embeddings"] = original
    rope = partial_rope(reader, raw)
    turning = int(head_dim * rope.rotary_fraction)
    for name in ("short_factor", "long_factor"):
        count = len(getattr(rope.scaling, name))
        if count not in (0, turning // 2):
            raise ConfigError(
                f"{reader.where}: rope {name} has {count} values; {turning} turning elements of "
                f"a head need {turning // 2}"
            )
    return rope


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    table = weight_names(config, Layout(up=("mlp.gate_up_proj",)))
    for i, spec in enumerate(config.layers):
        prefix = f"model.layers.{i}"
        table[f"layers.{i}.attention.qkv"] = _qkv(
            f"{prefix}.self_attn.qkv_proj.weight", grouped(spec), config.hidden_size
        )
    return table


def _qkv(name: str, a: AttentionConfig, width: int) -> Joined:
    """The rows of all queries, then those of all keys, then those of all values."""
    group, size = a.num_heads // a.num_kv_heads, a.num_kv_heads * a.head_dim
    ends = (a.num_heads * a.head_dim, *(a.num_heads * a.head_dim + size * i for i in (1, 2)))
    parts = tuple(
        View(
            name,
            (ends[-1], width),
            cut=(0, start, stop, 1),
            view=(a.num_kv_heads, count, a.head_dim, width),
            order=(3, 0, 1, 2),
        )
        for start, stop, count in zip((0, *ends), ends, (group, 1, 1), strict=False)
    )
    return Joined(parts, (group, 1, 1), axis=-2)
