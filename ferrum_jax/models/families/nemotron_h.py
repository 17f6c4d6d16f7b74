"""Nemotron H (NVIDIA 2025): one mixer a layer, which is Mamba 2, attention, an MLP or experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ferrum_jax.models.families.common import read_attention
from ferrum_jax.models.families.experts import expert_names
from ferrum_jax.models.families.layout import mlp_names, under, weight_names
from ferrum_jax.models.families.mamba2 import LAYOUT, alone, group_size, only_silu
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.weights.sources import Linear, Plain, Source
from ferrum_jax.types import (
    AttentionConfig,
    ConfigError,
    GroupScore,
    LayerSpec,
    Mamba2Config,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RouterKind,
    UnsupportedError,
)

KINDS = {
    "M": "linear_attention",
    "mamba": "linear_attention",
    "*": "full_attention",
    "attention": "full_attention",
    "-": "mlp",
    "E": "moe",
}
"""The letters of `hybrid_override_pattern` and the names of transformers 4."""

_IGNORED = (
    "attention_bias",
    "chunk_size",
    "expand",
    "hidden_dropout",
    "mamba_proj_bias",
    "mamba_ssm_cache_dtype",
    "moe_shared_expert_overlap",
    "mtp_hybrid_override_pattern",
    "mtp_layers_block_type",
    "n_shared_experts",
    "norm_eps",
    "num_hidden_layers",
    "num_logits_to_keep",
    "num_nextn_predict_layers",
    "output_router_logits",
    "partial_rotary_factor",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "time_step_floor",
    "time_step_limit",
    "time_step_max",
    "time_step_rank",
    "use_mamba_kernels",
)
"""Keys that transformers does not read in the forward: it ties no embeddings, adds no bias to the
attention and cuts the time step at `time_step_min` only."""


_LAYOUT = replace(
    LAYOUT,
    qkv=("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"),
    out="mixer.o_proj",
    up=("mixer.up_proj",),
    down="mixer.down_proj",
)


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: nemotron_h`."""
    reader.ignore(*_IGNORED)
    layers = {
        "linear_attention": LayerSpec(recurrent=_mixer(reader)),
        "full_attention": LayerSpec(_attention(reader)),
        "mlp": LayerSpec(mlp=_mlp(reader, reader.size("intermediate_size", 21_504))),
        "moe": LayerSpec(mlp=_experts(reader)),
    }
    return ModelConfig(
        model_type=reader.get("model_type"),
        vocab_size=reader.size("vocab_size"),
        hidden_size=reader.size("hidden_size"),
        layers=tuple(layers[kind] for kind in _kinds(reader)),
        max_positions=reader.size("max_position_embeddings", 4096),
        norm_eps=reader.number("layer_norm_epsilon", 1e-5),
    )


def _kinds(reader: ConfigReader) -> list[str]:
    """What each layer is; the list decides how many there are."""
    named: Any = reader.get("layers_block_type", None) or reader.get("layer_types", None)
    pattern = reader.get("hybrid_override_pattern", None)
    reader.ignore("layer_types")
    kinds = named or list(pattern or "")
    if not isinstance(kinds, list) or not kinds:
        raise ConfigError(
            f"{reader.where} has neither layers_block_type nor hybrid_override_pattern"
        )
    kinds = [KINDS.get(kind, kind) for kind in kinds]
    if unknown := sorted({str(kind) for kind in kinds} - set(KINDS.values())):
        raise UnsupportedError(f"{reader.where}: a layer is {', '.join(unknown)}")
    return kinds


def _attention(reader: ConfigReader) -> AttentionConfig:
    """Without positions: those come from the recurrent layers."""
    # Of the first files; transformers has the one size where head_dim is not named.
    reader.must_be("attention_head_dim", 128, None)
    return replace(read_attention(reader, RopeConfig(), head_dim=128), rope=None)


def _mixer(reader: ConfigReader) -> Mamba2Config:
    only_silu(reader, "mamba_hidden_act")
    heads, size = reader.size("mamba_num_heads", 128), reader.size("mamba_head_dim", 64)
    groups, bias = reader.size("n_groups", 8), reader.flag("use_bias", False)
    return Mamba2Config(
        num_heads=heads,
        head_dim=size,
        state_size=reader.size("ssm_state_size", 128),
        num_groups=groups,
        conv_size=reader.size("conv_kernel", 4),
        conv_bias=reader.flag("use_conv_bias", True),
        proj_bias=bias,
        out_bias=bias,
        norm_eps=reader.number("layer_norm_epsilon", 1e-5),
        norm_group=group_size(reader, heads * size, heads, groups),
        dt_min=float(reader.get("time_step_min", 0.001)),
    )


def _mlp(reader: ConfigReader, size: int) -> MLPConfig:
    return MLPConfig(
        size,
        reader.activation("mlp_hidden_act", "relu2"),
        gated=False,
        mlp_bias=reader.flag("mlp_bias", False),
    )


def _experts(reader: ConfigReader) -> MoEConfig:
    """Experts without gates, on a latent vector where `moe_latent_size` is given."""
    shared = _mlp(reader, reader.size("moe_shared_expert_intermediate_size", 7688))
    latent = reader.optional_size("moe_latent_size")
    if latent is not None and shared.mlp_bias:
        raise UnsupportedError(
            f"{reader.where}: mlp_bias together with moe_latent_size is not supported"
        )
    return MoEConfig(
        num_experts=reader.size("n_routed_experts", 8),
        experts_per_token=reader.size("num_experts_per_tok", 2),
        ffn_size=reader.size("moe_intermediate_size", 7688),
        activation=shared.activation,
        norm_topk=reader.flag("norm_topk_prob", True),
        norm_eps=1e-20,
        router=RouterKind.SIGMOID,
        choice_bias=True,
        groups=reader.size("n_group", 1),
        groups_kept=reader.size("topk_group", 1),
        group_score=GroupScore.TOP2_SUM,
        weight_scale=reader.number("routed_scaling_factor", 1.0),
        gated=False,
        latent_size=latent,
        shared=shared,
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, _LAYOUT, recurrent=alone, moe=_expert_names)


def _expert_names(layer: str, experts: MoEConfig) -> dict[str, Source]:
    prefix = f"{layer}.mixer"
    assert experts.shared is not None
    table: dict[str, Source] = {
        "router": Linear(f"{prefix}.gate.weight"),
        "choice_bias": Plain(f"{prefix}.gate.e_score_correction_bias"),
        **expert_names(prefix, experts, {"up": "up_proj", "down": "down_proj"}),
        **under("shared", mlp_names(f"{prefix}.shared_experts", experts.shared, ("up_proj",))),
    }
    if experts.latent_size is not None:
        table["latent_down"] = Linear(f"{prefix}.fc1_latent_proj.weight")
        table["latent_up"] = Linear(f"{prefix}.fc2_latent_proj.weight")
    return table
