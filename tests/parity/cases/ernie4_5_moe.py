"""ERNIE 4.5 MoE."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _ernie(**changes: Any) -> dict[str, Any]:
    """Six experts of 40, two of them per token, and a shared expert of twice that."""
    sizes = {
        "moe_intermediate_size": 40,
        "moe_num_experts": 6,
        "moe_k": 2,
    }
    return sized(**(sizes | changes))


CASES = [
    Case("ernie4_5_moe", "ernie4_5_moe", _ernie()),
    # Sparse are layers 1, 3 and 5 by the interval, of which 3 alone lies between start and end.
    # The sum of the chosen probabilities is often below moe_norm_min.
    Case(
        "ernie4_5_moe_bias",
        "ernie4_5_moe",
        _ernie(
            num_hidden_layers=6,
            head_dim=24,
            use_bias=True,
            hidden_act="gelu",
            moe_layer_interval=2,
            moe_layer_start_index=2,
            moe_layer_end_index=4,
            moe_norm_min=0.6,
            moe_num_shared_experts=1,
        ),
    ),
    Case(
        "ernie4_5_moe_unshared",
        "ernie4_5_moe",
        _ernie(
            num_hidden_layers=2,
            moe_layer_start_index=0,
            moe_num_shared_experts=0,
            moe_k=3,
            use_bias=True,
            tie_word_embeddings=False,
        ),
    ),
    Case(
        "ernie4_5_moe_hub",
        "ernie4_5_moe",
        _ernie(
            rms_norm_eps=1e-5,
            rope_theta=500000.0,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            hidden_act="silu",
            max_position_embeddings=131072,
            moe_capacity=[64, 64, 64],
            moe_gate="topk",
            moe_layer_interval=1,
            moe_layer_start_index=1,
            moe_num_shared_experts=2,
            moe_use_aux_free=True,
            num_nextn_predict_layers=1,
            tie_word_embeddings=True,
            use_bias=False,
            use_cache=False,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
