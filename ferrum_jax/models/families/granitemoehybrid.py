"""Granite 4 (IBM 2025): Mamba 2 and attention, a shared MLP and, in some, experts beside it."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.bamba import beside_attention, hybrid_config, read_mixer
from ferrum_jax.models.families.common import read_attention
from ferrum_jax.models.families.granitemoe import fused_expert_names
from ferrum_jax.models.families.layout import Layout, mlp_names, under, weight_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import read_rope
from ferrum_jax.models.weights.sources import Source
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    LayerSpec,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RouterKind,
    UnsupportedError,
)

LAYER_TYPES = {
    "mamba": "linear_attention",
    "linear_attention": "linear_attention",
    "attention": "full_attention",
    "full_attention": "full_attention",
}
"""What transformers 4 called them, and what it does since."""

_IGNORED = (
    "init_method",
    "mamba_chunk_size",
    "output_router_logits",
    "rope_theta",
    "router_aux_loss_coef",
)


LAYOUT = Layout(up=("shared_mlp.input_linear",), down="shared_mlp.output_linear")


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: granitemoehybrid`."""
    reader.ignore(*_IGNORED)
    if reader.get("normalization_function", "rmsnorm") != "rmsnorm":
        raise UnsupportedError(f"{reader.where}: normalization_function is not rmsnorm")
    inner = reader.size("mamba_expand", 2) * reader.size("hidden_size")
    mixer = read_mixer(reader, inner, state_size=256, eps=1e-6)
    scale = reader.number("residual_multiplier", 1.0)
    base = LayerSpec(
        mlp=_feed_forward(reader),
        attention_scale=scale,
        recurrent_scale=scale,
        mlp_scale=scale,
    )
    by_kind = {
        "full_attention": replace(base, attention=_attention(reader)),
        "linear_attention": replace(base, recurrent=mixer),
    }
    layers = [by_kind[kind] for kind in _layer_types(reader)]
    return hybrid_config(
        reader,
        layers,
        max_positions=2048,
        eps=1e-6,
        embed_scale=reader.number("embedding_multiplier", 1.0),
        logit_scale=1 / reader.number("logits_scaling", 1.0),
    )


def _attention(reader: ConfigReader) -> AttentionConfig:
    """Without positions, unless `position_embedding_type` is rope."""
    bias = reader.flag("attention_bias", False)
    kind = reader.get("position_embedding_type", None)
    if kind not in (None, "nope", "rope"):
        raise UnsupportedError(f"{reader.where}: position_embedding_type {kind!r} is not known")
    if kind != "rope":
        reader.ignore("rope_parameters", "rope_scaling", "partial_rotary_factor")
    attention = read_attention(
        reader,
        read_rope(reader) if kind == "rope" else RopeConfig(),
        qkv_bias=bias,
        out_bias=bias,
        scale=reader.number("attention_multiplier", 1.0),
    )
    return attention if kind == "rope" else replace(attention, rope=None)


def _feed_forward(reader: ConfigReader) -> MLPConfig | MoEConfig:
    """The shared MLP, alone where there are no experts."""
    activation = reader.activation("hidden_act", "silu")
    shared = MLPConfig(reader.size("shared_intermediate_size", 1024), activation)
    experts, size = reader.index("num_local_experts", 8), reader.size("intermediate_size")
    chosen = reader.index("num_experts_per_tok", 2)
    if experts == 0:
        return shared
    if not 0 < chosen <= experts:
        raise ConfigError(
            f"{reader.where}: num_experts_per_tok = {chosen} out of {experts} experts"
        )
    return MoEConfig(
        num_experts=experts,
        experts_per_token=chosen,
        ffn_size=size,
        activation=activation,
        router=RouterKind.SOFTMAX_OF_CHOSEN,
        norm_topk=False,
        shared=shared,
    )


def _layer_types(reader: ConfigReader) -> list[str]:
    count = reader.size("num_hidden_layers")
    older = reader.get("layers_block_type", None) or ["linear_attention"] * count
    kinds = reader.layer_types(count, older, tuple(LAYER_TYPES))
    return [LAYER_TYPES[kind] for kind in kinds]


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""

    def experts(prefix: str, moe: MoEConfig) -> dict[str, Source]:
        assert moe.shared is not None
        shared = mlp_names(prefix, moe.shared, LAYOUT.up, LAYOUT.down)
        return fused_expert_names(config.hidden_size, prefix, moe) | under("shared", shared)

    return weight_names(config, LAYOUT, recurrent=beside_attention, moe=experts)
