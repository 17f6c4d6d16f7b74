"""Hunyuan V1, dense (Tencent 2025): every query and key head is normed behind the rope."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ferrum_jax.models.families.common import model_config, read_attention
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import parse_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import ConfigError, LayerSpec, MLPConfig, ModelConfig, NormKind, RopeConfig

WITHOUT_EFFECT = (
    "add_classification_head",
    "attention_head_dim",
    "cla_share_factor",
    "class_num",
    "dense_list",
    "eod_token_id",
    "im_end_id",
    "im_newline_id",
    "im_start_id",
    "mask_init_id",
    "org_vocab_size",
    "pad_id",
    "pool_type",
    "text_end_id",
    "text_start_id",
)
"""Token ids, and the figures of a classifier and of shared layers, which are off."""
UNREAD_BESIDE_ALPHA = ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
QK_NORMS = ("self_attn.query_layernorm", "self_attn.key_layernorm")
ALWAYS = {"norm_type": "rms", "use_qk_norm": True, "use_rotary_pos_emb": True}
"""What the files say of choices that this model type does not have."""


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: hunyuan_v1_dense`."""
    bias = reader.flag("attention_bias", False)
    rope, alpha = _rope(reader)
    attention = read_attention(reader, rope, qkv_bias=bias, out_bias=bias, qk_norm=NormKind.RMS)
    reader.must_be_off("use_cla", "mlp_bias")
    for key, value in ALWAYS.items():
        reader.must_be(key, value)
    reader.ignore(*WITHOUT_EFFECT)
    mlp = MLPConfig(
        ffn_size=reader.size("intermediate_size"),
        activation=reader.activation("hidden_act", "silu"),
    )
    stretched = replace(rope, theta=_stretched(rope.theta, alpha, attention.head_dim))
    spec = LayerSpec(replace(attention, rope=stretched, qk_norm_after_rope=True), mlp)
    return model_config(reader, [spec] * reader.size("num_hidden_layers"), eps=1e-5)


def _rope(reader: ConfigReader) -> tuple[RopeConfig, float]:
    """The rope before it is stretched, and its alpha; 1 where there is none.

    These files call it `dynamic`, but with an alpha it is fixed, and its other figures are not
    read.
    """
    raw: dict[str, Any] = dict(
        reader.get("rope_parameters", None) or reader.get("rope_scaling", None) or {}
    )
    reader.ignore("rope_scaling")
    alpha = raw.pop("alpha", None)
    if alpha is not None:
        if raw.pop("type", None) != "dynamic" and raw.get("rope_type") != "dynamic":
            raise ConfigError(f"{reader.where}: a rope has an alpha and is not of type dynamic")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not alpha > 0:
            raise ConfigError(
                f"{reader.where}: rope alpha is {alpha!r}; it must be a positive number"
            )
        raw = {key: raw[key] for key in raw if key not in UNREAD_BESIDE_ALPHA}
        raw["rope_type"] = "default"
    return parse_rope(reader, raw, reader.get("rope_theta", None) or 10_000.0), alpha or 1.0


def _stretched(theta: float, alpha: float, head_dim: int) -> float:
    return theta * alpha ** (head_dim / (head_dim - 2))


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, Layout(qk_norms=QK_NORMS))
