"""DeepSeek V2 and V3 (the latter is also what Kimi K2 and Moonlight are)."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _deepseek(**changes: Any) -> dict[str, Any]:
    """Latent attention whose heads have 12 + 8 elements and whose values have 10; eight experts."""
    sizes = {
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 20,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "moe_intermediate_size": 40,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "first_k_dense_replace": 1,
    }
    return sized(**(sizes | changes))


_HUB = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 163840,
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "seq_aux": True,
    "tie_word_embeddings": False,
    "use_cache": True,
}
"""What the files of both models have."""

_V2 = [
    # norm_topk_prob is in this config and transformers never divides by the sum.
    Case(
        "deepseek_v2",
        "deepseek_v2",
        _deepseek(
            attention_bias=True,
            mlp_bias=True,
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
            hidden_act="gelu",
        ),
    ),
    Case(
        "deepseek_v2_groups",
        "deepseek_v2",
        _deepseek(
            q_lora_rank=None,
            topk_method="group_limited_greedy",
            n_group=4,
            topk_group=2,
            routed_scaling_factor=4.0,
            first_k_dense_replace=0,
            num_hidden_layers=2,
            tie_word_embeddings=True,
            **rope(
                "yarn",
                500.0,
                factor=4.0,
                original_max_position_embeddings=32,
                beta_fast=4.0,
                mscale=0.8,
                mscale_all_dim=0.5,
            ),
        ),
    ),
    Case(
        "deepseek_v2_hub",
        "deepseek_v2",
        _deepseek(
            **_HUB,
            q_lora_rank=None,
            n_group=1,
            topk_group=1,
            topk_method="greedy",
            scoring_func="softmax",
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            rope_scaling={
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 40,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

_V3 = [
    Case(
        "deepseek_v3",
        "deepseek_v3",
        _deepseek(n_group=4, topk_group=2, routed_scaling_factor=2.5, n_shared_experts=1),
    ),
    Case(
        "deepseek_v3_half_split",
        "deepseek_v3",
        _deepseek(
            q_lora_rank=None,
            attention_bias=True,
            rope_interleave=False,
            n_group=2,
            topk_group=1,
            norm_topk_prob=False,
            routed_scaling_factor=0.7,
            first_k_dense_replace=0,
            num_hidden_layers=2,
            tie_word_embeddings=True,
            **rope(
                "yarn", 500.0, factor=4.0, original_max_position_embeddings=32, mscale_all_dim=0.9
            ),
        ),
    ),
    Case(
        "deepseek_v3_hub",
        "deepseek_v3",
        _deepseek(
            **_HUB,
            ep_size=1,
            n_group=4,
            topk_group=2,
            topk_method="noaux_tc",
            scoring_func="sigmoid",
            norm_topk_prob=True,
            num_nextn_predict_layers=1,
            routed_scaling_factor=2.5,
            rope_scaling={
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 40,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
        ),
        hub_style=True,
        dtype="bfloat16",
        shards=2,
    ),
    # As Kimi K2 spells it: one group, and a yarn whose two ends meet.
    Case(
        "deepseek_v3_kimi",
        "deepseek_v3",
        _deepseek(
            **(_HUB | {"max_position_embeddings": 131072, "rope_theta": 50000.0}),
            ep_size=1,
            n_group=1,
            topk_group=1,
            topk_method="noaux_tc",
            scoring_func="sigmoid",
            norm_topk_prob=True,
            num_nextn_predict_layers=0,
            routed_scaling_factor=2.827,
            n_shared_experts=1,
            num_hidden_layers=2,
            rope_scaling={
                "beta_fast": 1.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
        ),
        hub_style=True,
    ),
]

CASES = _V2 + _V3
