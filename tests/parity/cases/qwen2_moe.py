"""Qwen 2 MoE."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _moe(**changes: Any) -> dict[str, Any]:
    """Six experts of 40, two of them per token, and a shared expert of 56."""
    sizes = {
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 56,
        "num_experts": 6,
        "num_experts_per_tok": 2,
    }
    return sized(**(sizes | changes))


CASES = [
    Case("qwen2_moe", "qwen2_moe", _moe()),
    # The window is on every other layer before max_window_layers: here on 0 and 2 of 5.
    # Layers 1 and 3 would be sparse by the step; layer 3 is dense by name.
    Case(
        "qwen2_moe_window",
        "qwen2_moe",
        _moe(
            num_hidden_layers=5,
            head_dim=24,
            qkv_bias=False,
            norm_topk_prob=True,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=4,
            num_experts_per_tok=3,
        ),
    ),
    Case(
        "qwen2_moe_layer_types",
        "qwen2_moe",
        _moe(
            num_hidden_layers=2,
            hidden_act="gelu",
            use_sliding_window=True,
            sliding_window=8,
            layer_types=["full_attention", "sliding_attention"],
            tie_word_embeddings=True,
        ),
    ),
    Case(
        "qwen2_moe_hub",
        "qwen2_moe",
        _moe(
            num_key_value_heads=4,
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            decoder_sparse_step=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=2,
            norm_topk_prob=False,
            output_router_logits=False,
            router_aux_loss_coef=0.001,
            sliding_window=8,
            tie_word_embeddings=False,
            use_cache=True,
            use_sliding_window=False,
        ),
        hub_style=True,
        shards=2,
    ),
]
