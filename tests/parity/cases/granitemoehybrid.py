"""Granite 4: Mamba 2 and attention, each with a shared MLP and experts beside it."""

from __future__ import annotations

from typing import Any

from .bamba import MAMBA2
from .case import Case, sized

_PATTERN = ["linear_attention", "full_attention", "linear_attention"]


def _hybrid(**changes: Any) -> dict[str, Any]:
    """Six experts of 40 and a shared MLP of 48; every multiplier differs from one."""
    sizes = MAMBA2 | {
        "intermediate_size": 40,
        "shared_intermediate_size": 48,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "layer_types": _PATTERN,
        "embedding_multiplier": 6.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.5,
    }
    return sized(**(sizes | changes))


_HUB = {
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "init_method": "mup",
    "initializer_range": 0.1,
    "layer_types": ["mamba", "attention", "mamba"],
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 16,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_proj_bias": False,
    "normalization_function": "rmsnorm",
    "output_router_logits": False,
    "pad_token_id": 0,
    "rope_scaling": None,
    "rope_theta": 10000,
    "router_aux_loss_coef": 0.01,
    "tie_word_embeddings": True,
    "use_cache": True,
}

CASES = [
    Case("granitemoehybrid", "granitemoehybrid", _hybrid()),
    Case(
        "granitemoehybrid_options",
        "granitemoehybrid",
        _hybrid(
            layer_types=["full_attention", "linear_attention"],
            num_hidden_layers=2,
            position_embedding_type="rope",
            rope_theta=500.0,
            head_dim=24,
            attention_bias=True,
            num_experts_per_tok=3,
            mamba_expand=3,
            mamba_n_heads=12,
            mamba_d_head=16,
            mamba_n_groups=3,
            mamba_d_conv=3,
            mamba_conv_bias=False,
            mamba_proj_bias=True,
            time_step_limit=[0.5, 0.9],
        ),
    ),
    # Without experts, and recurrent throughout, which is what no layer list means.
    Case(
        "granitemoehybrid_dense",
        "granitemoehybrid",
        _hybrid(num_hidden_layers=2, num_local_experts=0, layer_types=None),
    ),
    Case(
        "granitemoehybrid_hub",
        "granitemoehybrid",
        _hybrid(**(_HUB | {"position_embedding_type": "nope"})),
        hub_style=True,
        dtype="bfloat16",
    ),
]
