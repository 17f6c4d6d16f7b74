"""Granite and Granite MoE."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _granite(**changes: Any) -> dict[str, Any]:
    """Multipliers far from one."""
    sizes = {
        "embedding_multiplier": 7.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.6,
    }
    return sized(**(sizes | changes))


def _moe(**changes: Any) -> dict[str, Any]:
    """Six experts of 40, three of them per token."""
    sizes = {"intermediate_size": 40, "num_local_experts": 6, "num_experts_per_tok": 3}
    return _granite(**(sizes | changes))


_HUB = {
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "attention_dropout": 0.1,
    "attention_multiplier": 0.25,
    "bos_token_id": 0,
    "embedding_multiplier": 3.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "pad_token_id": 0,
    "residual_multiplier": 0.8,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "use_cache": True,
}
"""What the files of both have."""

_DENSE = [
    # One multiplier at its default, which is 1 for the attention too.
    Case("granite", "granite", _granite(attention_multiplier=1.0)),
    Case(
        "granite_options",
        "granite",
        _granite(
            head_dim=24,
            embedding_multiplier=0.5,
            num_hidden_layers=2,
            attention_bias=True,
            mlp_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=3.0),
        ),
    ),
    Case(
        "granite_hub",
        "granite",
        _granite(**_HUB, logits_scaling=1.25, mlp_bias=False, rope_theta=5000000.0),
        hub_style=True,
        dtype="bfloat16",
    ),
]

_MOE = [
    Case("granitemoe", "granitemoe", _moe()),
    Case(
        "granitemoe_options",
        "granitemoe",
        _moe(
            head_dim=24,
            embedding_multiplier=0.5,
            num_experts_per_tok=1,
            attention_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=3.0),
        ),
    ),
    Case(
        "granitemoe_hub",
        "granitemoe",
        _moe(
            **_HUB,
            logits_scaling=1.25,
            output_router_logits=False,
            rope_theta=1500000.0,
            router_aux_loss_coef=0.0,
        ),
        hub_style=True,
        dtype="bfloat16",
        shards=2,
    ),
]

CASES = _DENSE + _MOE
