"""Falcon (Almazrouei et al. 2023): attention and feed-forward block side by side, one key and
value head or a few, in three joined layouts that are all held in the same way."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from ferrum_jax.models.families.bloom import BLOCK
from ferrum_jax.models.families.common import alibi_slopes, head_size
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    NormKind,
    RopeConfig,
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: falcon`."""
    width, bias = reader.size("hidden_size"), reader.flag("bias", False)
    new = reader.flag("new_decoder_architecture", False)
    mlp = MLPConfig(
        ffn_size=reader.optional_size("ffn_hidden_size") or 4 * width,
        activation=reader.activation("activation", "gelu"),
        gated=False,
        mlp_bias=bias,
    )
    parallel, norms = _block(reader, new)
    spec = LayerSpec(
        _attention(reader, width, new, bias),
        mlp,
        norm=NormKind.LAYER,
        parallel=parallel,
        shared_norm=parallel and norms == 1,
    )
    reader.ignore("hidden_dropout")
    reader.must_be_off("apply_residual_connection_post_layernorm")
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size"),
        hidden_size=width,
        layers=(spec,) * reader.size("num_hidden_layers"),
        max_positions=reader.size("max_position_embeddings", 2048),
        norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        final_norm=NormKind.LAYER,
        tie_embeddings=reader.flag("tie_word_embeddings", True),
    )


def _block(reader: ConfigReader, new: bool) -> tuple[bool, int]:
    """Whether the block is parallel, and how many norms it then has."""
    parallel = reader.flag("parallel_attn", True)
    norms = reader.optional_size("num_ln_in_parallel_attn") or (2 if new else 1)
    if new and not parallel:
        raise ConfigError(
            f"{reader.where}: new_decoder_architecture is a parallel block, and parallel_attn is "
            "false"
        )
    if norms not in ((1, 2) if new else (1,)):
        raise ConfigError(
            f"{reader.where}: num_ln_in_parallel_attn is {norms}; it may be 1, or 2 with "
            "new_decoder_architecture"
        )
    return parallel, norms


def _attention(reader: ConfigReader, width: int, new: bool, bias: bool) -> AttentionConfig:
    heads = reader.size("num_attention_heads")
    size = head_size(reader, width, heads)
    one = reader.flag("multi_query", True)
    named = reader.optional_size("num_kv_heads") or heads
    kv_heads = named if new else 1 if one else heads
    if heads % kv_heads:
        raise ConfigError(
            f"{reader.where}: num_attention_heads = {heads} is no multiple of "
            f"num_kv_heads = {kv_heads}"
        )
    scale = size**-0.5
    alibi, rope = reader.flag("alibi", False), _rope(reader)
    return AttentionConfig(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=size,
        scale=scale,
        rope=None if alibi else rope,
        alibi_slopes=_slopes(heads) if alibi else None,
        alibi_rounded=alibi,
        qkv_bias=bias,
        out_bias=bias,
    )


def _rope(reader: ConfigReader) -> RopeConfig:
    """Older files name no length, and have a plain rope."""
    if reader.get("max_position_embeddings", None) is not None:
        return read_rope(reader)
    reader.must_be_off("rope_parameters", "rope_scaling")
    return RopeConfig(theta=reader.number("rope_theta", 10_000.0))


def _slopes(heads: int) -> tuple[float, ...]:
    """In the precision that transformers forms the position bias in."""
    return tuple(float(jnp.asarray(slope, jnp.bfloat16)) for slope in alibi_slopes(heads))


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    spec = config.layers[0]
    layout = BLOCK
    if spec.parallel and not spec.shared_norm:
        layout = replace(BLOCK, norms={"mixer_norm": "ln_attn", "mlp_norm": "ln_mlp"})
    return weight_names(config, layout)
