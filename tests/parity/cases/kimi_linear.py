"""Kimi Linear: Kimi delta attention and latent attention without positions."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _kimi(**changes: Any) -> dict[str, Any]:
    """Three heads of 12 for the recurrence, four of 12 + 8 for the latent attention, whose values
    have 10; six experts of 40."""
    sizes = {
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "linear_num_heads": 3,
        "linear_head_dim": 12,
        "kv_lora_rank": 20,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "moe_intermediate_size": 40,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "pad_token_id": 0,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    }
    return sized(**(sizes | changes))


def _hub(**changes: Any) -> dict[str, Any]:
    """As the files on the hub spell it."""
    spelt = {
        "num_local_experts": "num_experts",
        "num_experts_per_tok": "num_experts_per_token",
        "max_position_embeddings": "model_max_length",
    }
    left_out = ("layer_types", "linear_num_heads", "linear_head_dim")
    sizes = _kimi(**changes)
    return {spelt.get(key, key): value for key, value in sizes.items() if key not in left_out}


CASES = [
    Case("kimi_linear", "kimi_linear", _kimi()),
    Case(
        "kimi_linear_options",
        "kimi_linear",
        _kimi(
            q_lora_rank=24,
            attention_bias=True,
            linear_conv_kernel_dim=3,
            num_hidden_layers=3,
            layer_types=["full_attention", "linear_attention", "linear_attention"],
            mlp_layer_types=["sparse", "dense", "sparse"],
            num_local_experts=8,
            num_experts_per_tok=3,
            n_group=4,
            topk_group=2,
            n_shared_experts=2,
            norm_topk_prob=False,
            routed_scaling_factor=1.5,
        ),
    ),
    Case(
        "kimi_linear_hub",
        "kimi_linear",
        _hub(
            rms_norm_eps=1e-5,
            bos_token_id=0,
            eos_token_id=1,
            first_k_dense_replace=1,
            head_dim=16,
            hidden_act="silu",
            initializer_range=0.02,
            linear_attn_config={
                "full_attn_layers": [4],
                "head_dim": 12,
                "kda_layers": [1, 2, 3],
                "num_heads": 3,
                "short_conv_kernel_size": 4,
            },
            mla_use_nope=True,
            moe_layer_freq=1,
            moe_renormalize=True,
            moe_router_activation_func="sigmoid",
            num_expert_group=1,
            num_nextn_predict_layers=0,
            num_shared_experts=1,
            pad_token_id=2,
            q_lora_rank=None,
            rope_scaling=None,
            rope_theta=10000.0,
            routed_scaling_factor=2.446,
            tie_word_embeddings=False,
            topk_group=1,
            use_cache=True,
            use_grouped_topk=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
