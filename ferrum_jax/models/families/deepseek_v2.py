"""DeepSeek V2 (DeepSeek-AI 2024): latent attention, a softmax router, two shared experts."""

from __future__ import annotations

from ferrum_jax.models.families.common import model_config
from ferrum_jax.models.families.deepseek_v3 import (
    check_choice,
    dense_then_sparse,
    ignore_training,
    names,
    read_latent,
)
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.models.families.rope import partial_rope
from ferrum_jax.types import Activation, GroupScore, MLPConfig, ModelConfig, MoEConfig, RouterKind

__all__ = ["names", "read"]


def read(reader: ConfigReader) -> ModelConfig:
    """`model_type: deepseek_v2`."""
    attention = read_latent(reader, partial_rope(reader, interleaved=True))
    activation = reader.activation("hidden_act", "silu")
    bias = reader.flag("mlp_bias", False)
    dense = MLPConfig(reader.size("intermediate_size", 11008), activation, mlp_bias=bias)
    experts = _experts(reader, activation, bias)
    first = reader.index("first_k_dense_replace", 0)
    return model_config(reader, dense_then_sparse(reader, attention, dense, experts, first))


def _experts(reader: ConfigReader, activation: Activation, bias: bool) -> MoEConfig:
    count, chosen = reader.size("n_routed_experts", 64), reader.size("num_experts_per_tok")
    method = reader.must_be("topk_method", "greedy", "group_limited_greedy")
    groups, kept = reader.optional_size("n_group") or 1, reader.optional_size("topk_group") or 1
    if method == "greedy":
        groups = kept = 1
    check_choice(reader, count, chosen, groups, kept)
    reader.must_be("scoring_func", "softmax")
    # transformers has this key and divides by no sum, whatever it says.
    reader.ignore("norm_topk_prob")
    ignore_training(reader)
    size = reader.size("moe_intermediate_size", 1407)
    shared = reader.size("n_shared_experts", 2) * size
    return MoEConfig(
        num_experts=count,
        experts_per_token=chosen,
        ffn_size=size,
        activation=activation,
        norm_topk=False,
        router=RouterKind.SOFTMAX,
        groups=groups,
        groups_kept=kept,
        group_score=GroupScore.MAX,
        weight_scale=reader.number("routed_scaling_factor", 1.0),
        shared=MLPConfig(shared, activation, mlp_bias=bias),
    )
