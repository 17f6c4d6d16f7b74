"""MiniMax M2 (2025): QK-norm over the projection, a part of each head turns, a sigmoid router."""

from __future__ import annotations

from dataclasses import replace

from ferrum_jax.models.families.common import check_count, model_config, read_attention
from ferrum_jax.models.families.layout import weight_names
from ferrum_jax.models.families.mixtral import numbered_expert_names
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.models.weights.sources import Plain, Source
from ferrum_jax.types import LayerSpec, ModelConfig, MoEConfig, NormKind, QKNormOver, RouterKind


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: minimax_m2`."""
    turned = reader.optional_size("rotary_dim")
    fraction = 1.0 if turned is None else turned / reader.size("head_dim", 128)
    rope = partial_rope(reader, theta=5e6, fraction=fraction)
    attention = read_attention(reader, rope, head_dim=128, qk_norm=NormKind.RMS)
    attention = replace(attention, qk_norm_over=QKNormOver.PROJECTION)
    _refuse_others(reader)
    spec = LayerSpec(attention, _experts(reader))
    return model_config(reader, [spec] * reader.size("num_hidden_layers"))


def _refuse_others(reader: ConfigReader) -> None:
    """The file also has keys of MiniMax's older models, all of them at one value."""
    reader.must_be("qk_norm_type", "per_layer")
    reader.must_be("use_qk_norm", True)
    reader.must_be("use_routing_bias", True)
    reader.must_be("scoring_func", "sigmoid")
    reader.must_be("sliding_window", None)
    reader.must_be("shared_intermediate_size", 0)
    for kind in ("full_attention", "linear_attention", "mlp"):
        reader.must_be(f"layernorm_{kind}_beta", 1.0)
    kinds = reader.get("attn_type_list", None) or []
    reader.must_be("attn_type_list", None, [1] * len(kinds))
    reader.ignore(
        "mlp_intermediate_size",
        "mtp_transformer_layers",
        "num_mtp_modules",
        "output_router_logits",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "shared_moe_mode",
        "use_mtp",
    )


def _experts(reader: ConfigReader) -> MoEConfig:
    count, chosen = reader.size("num_local_experts", 256), reader.size("num_experts_per_tok", 8)
    check_count(reader, "num_experts_per_tok", chosen, count)
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=reader.size("intermediate_size", 1536),
        activation=reader.activation("hidden_act", "silu"),
        router=RouterKind.SIGMOID,
        choice_bias=True,
    )


def names(config: ModelConfig) -> dict[str, Source]:
    """Where each parameter stands in the checkpoint."""
    return weight_names(config, moe=_moe_names)


def _moe_names(prefix: str, moe: MoEConfig) -> dict[str, Source]:
    bias = Plain(f"{prefix}.block_sparse_moe.e_score_correction_bias")
    return {**numbered_expert_names(prefix, moe), "choice_bias": bias}
