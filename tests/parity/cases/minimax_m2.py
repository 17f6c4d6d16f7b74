"""MiniMax M2."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _m2(**changes: Any) -> dict[str, Any]:
    """Six experts of 40, two of them per token."""
    sizes = {
        "intermediate_size": 40,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "head_dim": 24,
    }
    return sized(**(sizes | changes))


CASES = [
    # The whole head turns.
    Case("minimax_m2", "minimax_m2", _m2()),
    Case(
        "minimax_m2_options",
        "minimax_m2",
        _m2(
            num_hidden_layers=2,
            num_experts_per_tok=3,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=3.0, partial_rotary_factor=0.25),
        ),
    ),
    Case(
        "minimax_m2_hub",
        "minimax_m2",
        _m2(
            rms_norm_eps=1e-6,
            rope_theta=5000000,
            rotary_dim=12,
            attention_dropout=0.0,
            attn_type_list=[1, 1, 1],
            bos_token_id=None,
            eos_token_id=None,
            hidden_act="silu",
            initializer_range=0.02,
            layernorm_full_attention_beta=1.0,
            layernorm_linear_attention_beta=1.0,
            layernorm_mlp_beta=1.0,
            max_position_embeddings=196608,
            mlp_intermediate_size=112,
            mtp_transformer_layers=1,
            num_mtp_modules=3,
            output_router_logits=False,
            qk_norm_type="per_layer",
            router_aux_loss_coef=0.001,
            router_jitter_noise=0.0,
            scoring_func="sigmoid",
            shared_intermediate_size=0,
            shared_moe_mode="sigmoid",
            sliding_window=None,
            tie_word_embeddings=False,
            use_cache=True,
            use_mtp=True,
            use_qk_norm=True,
            use_routing_bias=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
