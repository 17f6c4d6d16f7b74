"""Llama 4, text (Meta 2025): chunked attention, layers without rope whose queries grow, experts
whose weight multiplies their input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ferrum_jax.models.families.common import check_count, model_config, read_attention
from ferrum_jax.models.families.experts import fused, shared_names
from ferrum_jax.models.families.layout import Layout, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Linear, Plain, Source
from ferrum_jax.types import (
    Activation,
    AttentionConfig,
    ConfigError,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormKind,
    QueryTemperature,
    RouterKind,
    UnsupportedError,
)

_LAYOUT = Layout(
    up=("feed_forward.gate_proj", "feed_forward.up_proj"), down="feed_forward.down_proj"
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: llama4_text`."""
    activation = reader.activation("hidden_act", "silu")
    dense = MLPConfig(reader.size("intermediate_size_mlp", 16384), activation)
    experts, sparse = _experts(reader, activation), _sparse(reader)
    reader.ignore("for_llm_compressor")
    return model_config(
        reader,
        [
            LayerSpec(attention, experts if i in sparse else dense)
            for i, attention in enumerate(_attentions(reader))
        ],
        eps=1e-5,
    )


def _attentions(reader: ConfigReader) -> list[AttentionConfig]:
    bias = reader.flag("attention_bias", False)
    turned = read_attention(
        reader,
        partial_rope(reader, theta=5e5, interleaved=True),
        head_dim=128,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=NormKind.RMS_UNSCALED if reader.flag("use_qk_norm", True) else None,
    )
    turned = replace(turned, qk_norm_after_rope=turned.qk_norm is not None)
    still = replace(
        turned, rope=None, qk_norm=None, qk_norm_after_rope=False, temperature=_temperature(reader)
    )
    has_rope = _has_rope(reader)
    return [
        replace(turned if rope else still, chunk=chunk)
        for rope, chunk in zip(has_rope, _chunks(reader, has_rope), strict=True)
    ]


def _has_rope(reader: ConfigReader) -> list[bool]:
    """`no_rope_layers` has a 1 for each layer *with* a rope; else every so many have none."""
    count, every = reader.size("num_hidden_layers"), reader.size("no_rope_layer_interval", 4)
    listed = reader.indices("no_rope_layers")
    if listed and len(listed) < count:
        raise ConfigError(
            f"{reader.where}: no_rope_layers has {len(listed)} entries; it must have {count}"
        )
    return [bool(listed[i]) if listed else (i + 1) % every != 0 for i in range(count)]


def _chunks(reader: ConfigReader, has_rope: list[bool]) -> list[int | None]:
    size = reader.get("attention_chunk_size", 8192)
    size = None if size is None else reader.size("attention_chunk_size", 8192)
    known = ("full_attention", "chunked_attention")
    kinds = reader.get("layer_types", None) or [known[bool(rope and size)] for rope in has_rope]
    if not isinstance(kinds, list) or len(kinds) != len(has_rope):
        raise ConfigError(
            f"{reader.where}: layer_types is {kinds!r}; it must list {len(has_rope)} layers"
        )
    if unknown := sorted({str(kind) for kind in kinds} - set(known)):
        raise UnsupportedError(
            f"{reader.where}: layer_types names {', '.join(unknown)}; "
            f"this model type has {' and '.join(known)}"
        )
    if size is None and "chunked_attention" in kinds:
        raise ConfigError(
            f"{reader.where}: layer_types has chunked layers, but attention_chunk_size is null"
        )
    return [size if kind == "chunked_attention" else None for kind in kinds]


def _temperature(reader: ConfigReader) -> QueryTemperature | None:
    beta, length = reader.number("attn_scale", 0.1), reader.number("floor_scale", 8192)
    # A file may say 4 and mean true.
    on = reader.must_be("attn_temperature_tuning", True, False, 4)
    return QueryTemperature(beta, length, offset=1.0) if on else None


def _sparse(reader: ConfigReader) -> tuple[int, ...]:
    step = reader.size("interleave_moe_layer_step", 1)
    if reader.get("moe_layers", None) is not None:
        return reader.indices("moe_layers")
    return tuple(range(step - 1, reader.size("num_hidden_layers"), step))


def _experts(reader: ConfigReader, activation: Activation) -> MoEConfig:
    count, chosen = reader.size("num_local_experts", 16), reader.size("num_experts_per_tok", 1)
    check_count(reader, "num_experts_per_tok", chosen, count)
    reader.ignore("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
    size = reader.size("intermediate_size", 8192)
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=size,
        activation=activation,
        router=RouterKind.SIGMOID,
        norm_topk=False,
        weights_scale_input=True,
        shared=MLPConfig(size, activation),
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, _LAYOUT, moe=partial(_moe_names, config.hidden_size))


def _moe_names(width: int, prefix: str, moe: MoEConfig) -> dict[str, Source]:
    """Gate and up stand in one tensor, one behind the other."""
    here = f"{prefix}.feed_forward"
    joined, shape = f"{here}.experts.gate_up_proj", (moe.num_experts, width, moe.ffn_size)
    return {
        "router": Linear(f"{here}.router.weight"),
        "gate": fused(joined, shape, 0),
        "up": fused(joined, shape, 1),
        "down": Plain(f"{here}.experts.down_proj", table=True),
        **shared_names(f"{here}.shared_expert", moe),
    }
