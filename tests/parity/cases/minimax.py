"""MiniMax: lightning attention and softmax attention."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _minimax(**changes: Any) -> dict[str, Any]:
    """Four experts of 56; the reference works in blocks of 16; each branch has its own factors."""
    sizes = {
        "intermediate_size": 56,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "block_size": 16,
        "full_attn_alpha_factor": 1.7,
        "full_attn_beta_factor": 0.6,
        "linear_attn_alpha_factor": 1.3,
        "linear_attn_beta_factor": 0.8,
        "mlp_alpha_factor": 0.7,
        "mlp_beta_factor": 1.4,
    }
    return sized(**(sizes | changes))


CASES = [
    # Full attention in layers 0 and 2, as no layer list means.
    Case("minimax", "minimax", _minimax()),
    Case(
        "minimax_options",
        "minimax",
        _minimax(
            layer_types=["linear_attention", "linear_attention", "full_attention"],
            head_dim=24,
            num_experts_per_tok=1,
            sliding_window=8,
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=2.0),
        ),
    ),
    Case(
        "minimax_hub",
        "minimax",
        _minimax(
            rms_norm_eps=1e-5,
            attention_dropout=0.0,
            attn_type_list=[0, 0, 1],
            block_size=256,
            bos_token_id=None,
            eos_token_id=None,
            full_attn_alpha_factor=3.5565588200778455,
            full_attn_beta_factor=1.0,
            head_dim=16,
            hidden_act="silu",
            initializer_range=0.02,
            layer_types=["linear_attention", "linear_attention", "full_attention"],
            linear_attn_alpha_factor=3.5565588200778455,
            linear_attn_beta_factor=1.0,
            mlp_alpha_factor=3.5565588200778455,
            mlp_beta_factor=1.0,
            output_router_logits=False,
            postnorm=True,
            rope_theta=10000000,
            rotary_dim=8,
            router_aux_loss_coef=0.001,
            router_jitter_noise=0.0,
            shared_intermediate_size=0,
            shared_moe_mode="sigmoid",
            sliding_window=None,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
