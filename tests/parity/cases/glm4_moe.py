"""GLM 4.5 (glm4_moe)."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _glm(**changes: Any) -> dict[str, Any]:
    """Eight experts of 40, three of them per token, and a shared one."""
    sizes = {
        "moe_intermediate_size": 40,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "routed_scaling_factor": 1.7,
    }
    return sized(**(sizes | changes))


CASES = [
    # Half of a head turns where the file does not say how much.
    Case("glm4_moe", "glm4_moe", _glm()),
    Case(
        "glm4_moe_qk_norm",
        "glm4_moe",
        _glm(
            head_dim=24,
            use_qk_norm=True,
            attention_bias=True,
            n_group=4,
            topk_group=2,
            n_shared_experts=2,
            norm_topk_prob=False,
            first_k_dense_replace=2,
            tie_word_embeddings=True,
            **rope(
                "yarn",
                500.0,
                factor=4.0,
                original_max_position_embeddings=32,
                partial_rotary_factor=0.75,
            ),
        ),
    ),
    Case(
        "glm4_moe_hub",
        "glm4_moe",
        _glm(
            rms_norm_eps=1e-5,
            rope_theta=1000000,
            rope_scaling=None,
            head_dim=32,
            attention_bias=True,
            attention_dropout=0.0,
            eos_token_id=[1, 2, 3],
            pad_token_id=0,
            first_k_dense_replace=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_position_embeddings=131072,
            n_group=1,
            topk_group=1,
            n_shared_experts=1,
            norm_topk_prob=True,
            num_nextn_predict_layers=1,
            partial_rotary_factor=0.25,
            tie_word_embeddings=False,
            use_cache=True,
            use_qk_norm=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
