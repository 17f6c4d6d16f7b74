"""Qwen 2, Qwen 3 and Qwen 3 MoE."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _moe(**changes: Any) -> dict[str, Any]:
    """Qwen3-MoE sizes: six experts of 40, two of them per token."""
    sizes = {"moe_intermediate_size": 40, "num_experts": 6, "num_experts_per_tok": 2}
    return sized(**(sizes | changes))


_QWEN2 = [
    Case("qwen2", "qwen2", sized()),
    # Windows switched off: sliding_window must be ignored.
    Case("qwen2_window_off", "qwen2", sized(use_sliding_window=False, sliding_window=8)),
    Case(
        "qwen2_window",
        "qwen2",
        sized(num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2),
    ),
    Case(
        "qwen2_layer_types",
        "qwen2",
        sized(
            use_sliding_window=True,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ),
    Case(
        "qwen2_hub",
        "qwen2",
        sized(
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=1,
            sliding_window=8,
            tie_word_embeddings=True,
            use_cache=True,
            use_sliding_window=True,
        ),
        hub_style=True,
    ),
]

_QWEN3 = [
    Case("qwen3", "qwen3", sized(head_dim=24)),
    Case("qwen3_bias", "qwen3", sized(head_dim=16, attention_bias=True)),
    Case(
        "qwen3_window",
        "qwen3",
        sized(
            head_dim=16,
            num_hidden_layers=4,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
        ),
    ),
    Case(
        "qwen3_hub",
        "qwen3",
        sized(
            rms_norm_eps=1e-6,
            rope_theta=1000000,
            rope_scaling=None,
            head_dim=32,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=3,
            sliding_window=None,
            tie_word_embeddings=True,
            use_cache=True,
            use_sliding_window=False,
        ),
        hub_style=True,
    ),
]

_QWEN3_MOE = [
    Case("qwen3_moe", "qwen3_moe", _moe(norm_topk_prob=False)),
    Case("qwen3_moe_norm_topk", "qwen3_moe", _moe(norm_topk_prob=True, head_dim=24)),
    # Layers 1 and 3 would be sparse by the step; layer 3 is dense by name.
    Case(
        "qwen3_moe_dense_layers",
        "qwen3_moe",
        _moe(num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3], norm_topk_prob=True),
    ),
    # One window on every layer: this family has no layer_types and ignores max_window_layers.
    Case(
        "qwen3_moe_window",
        "qwen3_moe",
        _moe(
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
            attention_bias=True,
            num_experts_per_tok=3,
            num_hidden_layers=2,
        ),
    ),
    Case(
        "qwen3_moe_hub",
        "qwen3_moe",
        _moe(
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            rope_scaling=None,
            head_dim=32,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            decoder_sparse_step=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=3,
            mlp_only_layers=[],
            norm_topk_prob=True,
            output_router_logits=False,
            router_aux_loss_coef=0.001,
            sliding_window=None,
            tie_word_embeddings=False,
            use_cache=True,
            use_sliding_window=False,
        ),
        hub_style=True,
        shards=2,
    ),
]

CASES = _QWEN2 + _QWEN3 + _QWEN3_MOE
