"""dots.llm1."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _dots(**changes: Any) -> dict[str, Any]:
    """Eight experts of 40, three of them per token, and two shared ones."""
    sizes = {
        "moe_intermediate_size": 40,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 2.5,
    }
    return sized(**(sizes | changes))


CASES = [
    # The later half of the layers has windows.
    Case(
        "dots1",
        "dots1",
        _dots(num_hidden_layers=4, sliding_window=8, max_window_layers=2, norm_topk_prob=True),
    ),
    Case(
        "dots1_options",
        "dots1",
        _dots(
            head_dim=24,
            attention_bias=True,
            n_group=4,
            topk_group=2,
            n_shared_experts=1,
            first_k_dense_replace=0,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
            tie_word_embeddings=True,
        ),
    ),
    Case(
        "dots1_hub",
        "dots1",
        _dots(
            num_key_value_heads=4,
            rms_norm_eps=1e-5,
            rope_theta=10000000,
            rope_scaling=None,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=None,
            eos_token_id=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_position_embeddings=32768,
            max_window_layers=2,
            moe_layer_freq=1,
            n_group=1,
            topk_group=1,
            norm_topk_prob=True,
            pretraining_tp=1,
            scoring_func="noaux_tc",
            sliding_window=None,
            tie_word_embeddings=False,
            use_cache=True,
            use_sliding_window=False,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
