"""What the families share: how attention and a stack of layers are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ferrum_jax.models.families.reader import ConfigReader
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
    return tuple(replace(spec, attention=replace(grouped(spec), window=w)) for w in windows)


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


def gemma_layer(attention: AttentionConfig, mlp: MLPConfig) -> LayerSpec:
    """Gemma 2 and 3: `1 + w` norms, before and after each block."""
    return LayerSpec(
        attention, mlp, norm=NormKind.RMS_UNIT_OFFSET, placement=NormPlacement.SANDWICH
    )


def layer_norm_model(
    reader: ConfigReader, layers: Sequence[LayerSpec], eps_key: str, *, tied: bool = False
) -> ModelConfig:
    """A model that ends with the norm of its layers, whose epsilon has a name of its own.

    Args:
        tied: whether embeddings are tied where the file does not say.
    """
    config = model_config(reader, layers, tie_embeddings=tied, final_norm=layers[0].norm)
    return replace(config, norm_eps=reader.number(eps_key, 1e-5))


def check_count(reader: ConfigReader, key: str, chosen: int, count: int) -> None:
    """Refuse more experts per token than there are."""
    if chosen > count:
        raise ConfigError(f"{reader.where}: {key} = {chosen} is above the {count} experts")


def grouped(spec: LayerSpec) -> AttentionConfig:
    """How a layer of grouped-query attention attends."""
    assert isinstance(spec.attention, AttentionConfig), spec.attention
    return spec.attention


def head_size(reader: ConfigReader, hidden: int, heads: int) -> int:
    """Elements of a head where the file names only the width and the number of heads.

    Raises:
        ConfigError: the one is no multiple of the other.
    """
    if hidden % heads:
        raise ConfigError(
            f"{reader.where}: a hidden size of {hidden} is no multiple of {heads} heads"
        )
    return hidden // heads


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """What a score loses per position, by head (Press et al. 2022).

    A geometric series from its own ratio; of a number of heads that is no power of two the heads
    beyond the power below take every other slope of the series for the power above.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    extra = [2.0 ** (-4.0 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]
    return tuple(slopes + extra)
