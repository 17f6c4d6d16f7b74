"""What the families share: how a stack of layers is put together, and how its weights are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Heads, Linear, Plain, SideBySide, Source
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    NormKind,
    NormPlacement,
    RopeConfig,
    RopeKind,
)

PRE_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
"""Our norms by the name that a pre-norm checkpoint gives them."""


def read_attention(
    reader: ConfigReader,
    rope: RopeConfig,
    *,
    head_dim: int | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: NormKind | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> AttentionConfig:
    """Heads and sizes of grouped-query attention.

    `head_dim` is what the model type assumes where the file names none; None: hidden / heads.

    Raises:
        ConfigError: sizes that do not divide.
    """
    heads, hidden = reader.size("num_attention_heads"), reader.size("hidden_size")
    kv_heads = reader.optional_size("num_key_value_heads") or heads
    if heads % kv_heads:
        raise ConfigError(
            f"{reader.where}: num_attention_heads = {heads} is no multiple of "
            f"num_key_value_heads = {kv_heads}"
        )
    named = reader.optional_size("head_dim")
    if named is None and head_dim is None and hidden % heads:
        raise ConfigError(
            f"{reader.where}: hidden_size = {hidden} is no multiple of "
            f"num_attention_heads = {heads}, and no head_dim is given"
        )
    size = named or head_dim or hidden // heads
    if size % 2:
        raise ConfigError(f"{reader.where}: the head size is {size}; a rope needs an even one")
    _check_factors(reader, rope, size)
    return AttentionConfig(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=size,
        scale=size**-0.5 if scale is None else scale,
        rope=rope,
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        qk_norm=qk_norm,
        soft_cap=soft_cap,
    )


def _check_factors(reader: ConfigReader, rope: RopeConfig, head_dim: int) -> None:
    if rope.scaling.kind is not RopeKind.LONGROPE:
        return
    for name in ("short_factor", "long_factor"):
        count = len(getattr(rope.scaling, name))
        if count != head_dim // 2:
            raise ConfigError(
                f"{reader.where}: rope {name} has {count} values; a head of {head_dim} needs "
                f"{head_dim // 2}"
            )


def with_windows(spec: LayerSpec, windows: Sequence[int | None]) -> tuple[LayerSpec, ...]:
    """One layer per window, otherwise equal."""
    return tuple(replace(spec, attention=replace(spec.attention, window=w)) for w in windows)


def model_config(
    reader: ConfigReader,
    layers: Sequence[LayerSpec],
    *,
    tie_embeddings: bool = False,
    eps: float = 1e-6,
    embed_scale: float = 1.0,
    final_norm: NormKind = NormKind.RMS,
    final_soft_cap: float | None = None,
) -> ModelConfig:
    """The whole model; the keyword defaults are those of the model type."""
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size"),
        hidden_size=reader.size("hidden_size"),
        layers=tuple(layers),
        max_positions=reader.size("max_position_embeddings"),
        norm_eps=reader.number("rms_norm_eps", eps),
        final_norm=final_norm,
        tie_embeddings=reader.flag("tie_word_embeddings", tie_embeddings),
        embed_scale=embed_scale,
        final_soft_cap=final_soft_cap,
    )


def weight_names(
    config: ModelConfig,
    *,
    norms: dict[str, str] | None = None,
    moe: Callable[[str, int], dict[str, Source]] | None = None,
) -> dict[str, Source]:
    """Where each parameter stands in a checkpoint that follows Llama's names.

    Args:
        norms: the checkpoint's name of each norm of a layer.
        moe: the names inside a mixture-of-experts block, from the layer's prefix and the number
            of experts.
    """
    table: dict[str, Source] = {
        "embed": Plain("model.embed_tokens.weight"),
        "final_norm.weight": Plain("model.norm.weight"),
    }
    if not config.tie_embeddings:
        table["unembed"] = Linear("lm_head.weight")
    for i, spec in enumerate(config.layers):
        names = _layer_names(spec, f"model.layers.{i}", norms or PRE_NORMS, moe)
        table |= {f"layers.{i}.{key}": source for key, source in names.items()}
    return table


def _layer_names(
    spec: LayerSpec,
    prefix: str,
    norms: dict[str, str],
    moe: Callable[[str, int], dict[str, Source]] | None,
) -> dict[str, Source]:
    table: dict[str, Source] = {
        f"{ours}.weight": Plain(f"{prefix}.{theirs}.weight") for ours, theirs in norms.items()
    }
    attention = f"{prefix}.self_attn"
    table["attention.qkv"] = _qkv(attention, "weight")
    table["attention.o"] = Linear(f"{attention}.o_proj.weight", inputs=2)
    if spec.attention.qkv_bias:
        table["attention.qkv_bias"] = _qkv(attention, "bias")
    if spec.attention.out_bias:
        table["attention.o_bias"] = Plain(f"{attention}.o_proj.bias")
    if spec.attention.qk_norm:
        table["attention.q_norm.weight"] = Plain(f"{attention}.q_norm.weight")
        table["attention.k_norm.weight"] = Plain(f"{attention}.k_norm.weight")
    if not isinstance(spec.mlp, MLPConfig):
        assert moe is not None
        return table | {f"mlp.{k}": v for k, v in moe(prefix, spec.mlp.num_experts).items()}
    mlp, kinds = f"{prefix}.mlp", ("weight", "bias") if spec.mlp.mlp_bias else ("weight",)
    for kind in kinds:
        suffix = "_bias" if kind == "bias" else ""
        joined = (f"{mlp}.gate_proj.{kind}", f"{mlp}.up_proj.{kind}")
        table[f"mlp.gate_up{suffix}"] = SideBySide(joined)
    table["mlp.down"] = Linear(f"{mlp}.down_proj.weight")
    if spec.mlp.mlp_bias:
        table["mlp.down_bias"] = Plain(f"{mlp}.down_proj.bias")
    return table


def _qkv(attention: str, kind: str) -> Heads:
    return Heads(
        (
            f"{attention}.q_proj.{kind}",
            f"{attention}.k_proj.{kind}",
            f"{attention}.v_proj.{kind}",
        )
    )


SANDWICH_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def gemma_layer(attention: AttentionConfig, mlp: MLPConfig) -> LayerSpec:
    """Gemma 2 and 3: `1 + w` norms, before and after each block."""
    return LayerSpec(
        attention, mlp, norm=NormKind.RMS_UNIT_OFFSET, placement=NormPlacement.SANDWICH
    )
