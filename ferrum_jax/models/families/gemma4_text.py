"""Gemma 4, text (2026): heads of two sizes, shared keys and values, an embedding for each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.gemma4_names import names, unused
from ferrum_jax.models.families.olmo3 import ropes_by_kind
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import parse_rope
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormKind,
    NormPlacement,
    RopeConfig,
    RopeKind,
)

__all__ = ["names", "read", "unused"]

_ROPES = {
    "full_attention": {
        "rope_type": "proportional",
        "partial_rotary_factor": 0.25,
        "rope_theta": 1e6,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
"""Of a file that says nothing of its ropes."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: gemma4_text`."""
    # "vision" frees the tokens of images only.
    if reader.get("use_bidirectional_attention", None) != "vision":
        reader.must_be_off("use_bidirectional_attention")
    reader.ignore("expert_intermediate_size")
    kinds = _kinds(reader)
    attentions = _share(reader, kinds, _attentions(reader, kinds))
    size = reader.index("hidden_size_per_layer_input", 256) or None
    vocab = reader.size("vocab_size_per_layer_input", 262_144)
    config = model_config(
        reader,
        [_layer(reader, attention, size) for attention in attentions],
        tie_embeddings=True,
        embed_scale=math.sqrt(reader.size("hidden_size")),
        final_soft_cap=reader.optional_number("final_logit_softcapping"),
    )
    return replace(config, per_layer_size=size, per_layer_vocab=vocab if size else None)


def _kinds(reader: ConfigReader) -> list[str]:
    """The kinds of the layers; the last is full whatever is listed."""
    count = reader.size("num_hidden_layers")
    default = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(count)]
    return [*reader.layer_types(count, default)[:-1], "full_attention"]


def _attentions(reader: ConfigReader, kinds: Sequence[str]) -> list[AttentionConfig]:
    """The attention of each layer, as if none shared its keys."""
    bias = reader.flag("attention_bias", False)
    given = ropes_by_kind(reader)
    ropes = {kind: _rope(reader, given[kind] or raw) for kind, raw in _ROPES.items()}
    sliding = replace(
        read_attention(
            reader,
            ropes["sliding_attention"],
            head_dim=256,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=NormKind.RMS,
            scale=1.0,
        ),
        v_norm=NormKind.RMS_UNSCALED,
        window=reader.size("sliding_window", 512),
    )
    full = replace(
        sliding,
        rope=ropes["full_attention"],
        window=None,
        values_are_keys=reader.flag("attention_k_eq_v", False),
    )
    return [
        _resized(reader, sliding if kind == "sliding_attention" else full, sizes)
        for kind, sizes in zip(kinds, _sizes(reader, kinds), strict=True)
    ]


def _rope(reader: ConfigReader, raw: dict[str, Any]) -> RopeConfig:
    """A rope of which a fraction turns, where its kind is the proportional one."""
    rest = {key: value for key, value in raw.items() if key != "partial_rotary_factor"}
    if rest.get("rope_type") != RopeKind.PROPORTIONAL:
        return parse_rope(reader, rest, 1e4)
    rope = parse_rope(reader, {"factor": 1.0} | rest, 1e4)
    return replace(rope, rotary_fraction=raw.get("partial_rotary_factor", 1.0))


def _sizes(reader: ConfigReader, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """What differs from the common head sizes, per layer: by layer, or for full layers."""
    full = {"head_dim": reader.size("global_head_dim", 512)}
    kv_heads = reader.optional_size("num_global_key_value_heads")
    if kv_heads and reader.flag("attention_k_eq_v", False):
        full["num_key_value_heads"] = kv_heads
    saved = reader.get("per_layer_config", None)
    if saved is None:
        return [full if kind == "full_attention" else {} for kind in kinds]
    layers = {str(i) for i in range(len(kinds))}
    if not isinstance(saved, dict) or saved.keys() - layers:
        raise ConfigError(
            f"{reader.where}: per_layer_config is {saved!r}; it must be an object whose keys are "
            f"layers from 0 to {len(kinds) - 1}"
        )
    return [saved.get(str(i), {}) for i in range(len(kinds))]


def _resized(
    reader: ConfigReader, attention: AttentionConfig, sizes: dict[str, Any]
) -> AttentionConfig:
    if unknown := sorted(sizes.keys() - {"head_dim", "num_key_value_heads"}):
        raise ConfigError(
            f"{reader.where}: per_layer_config names {', '.join(unknown)}; "
            "it may change head_dim and num_key_value_heads"
        )
    kv_heads = sizes.get("num_key_value_heads", attention.num_kv_heads)
    if attention.num_heads % kv_heads:
        raise ConfigError(
            f"{reader.where}: num_attention_heads = {attention.num_heads} is no multiple of the "
            f"{kv_heads} key and value heads of a layer"
        )
    head_dim = sizes.get("head_dim", attention.head_dim)
    return replace(attention, head_dim=head_dim, num_kv_heads=kv_heads)


def _share(
    reader: ConfigReader, kinds: Sequence[str], attentions: list[AttentionConfig]
) -> list[AttentionConfig]:
    """The last layers use the keys and values of the last layer of their kind before them."""
    first = len(kinds) - reader.index("num_kv_shared_layers", 0)
    own = {kind: i for i, kind in enumerate(kinds[: max(first, 0)])}
    if missing := sorted(set(kinds) - own.keys()):
        raise ConfigError(
            f"{reader.where}: num_kv_shared_layers = {len(kinds) - first} of {len(kinds)} layers "
            f"leaves no {', '.join(missing)} layer to share from"
        )
    return attentions[:first] + [
        replace(attention, kv_from=own[kind])
        for kind, attention in zip(kinds[first:], attentions[first:], strict=True)
    ]


def _layer(reader: ConfigReader, attention: AttentionConfig, size: int | None) -> LayerSpec:
    activation = reader.activation("hidden_activation", "gelu_pytorch_tanh")
    wide = reader.flag("use_double_wide_mlp", False) and attention.kv_from is not None
    return LayerSpec(
        attention,
        MLPConfig(reader.size("intermediate_size") * (2 if wide else 1), activation),
        placement=NormPlacement.SANDWICH,
        experts_beside=_experts(reader),
        per_layer_input=activation if size else None,
        layer_scalar=True,
    )


def _experts(reader: ConfigReader) -> MoEConfig | None:
    reader.ignore("num_experts", "top_k_experts", "moe_intermediate_size")
    if not reader.flag("enable_moe_block", False):
        return None
    return MoEConfig(
        num_experts=reader.size("num_experts"),
        experts_per_token=reader.size("top_k_experts"),
        ffn_size=reader.size("moe_intermediate_size"),
        activation=reader.activation("hidden_activation", "gelu_pytorch_tanh"),
        router_norm=True,
        expert_scale=True,
    )
