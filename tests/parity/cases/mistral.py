"""Mistral and Mixtral."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _mixtral(**changes: Any) -> dict[str, Any]:
    """Mixtral sizes: four experts of 56, two of them per token."""
    sizes = {"intermediate_size": 56, "num_local_experts": 4, "num_experts_per_tok": 2}
    return sized(**(sizes | changes))


_MISTRAL = [
    Case("mistral", "mistral", sized(sliding_window=None)),
    Case("mistral_window", "mistral", sized(sliding_window=8, head_dim=24)),
    Case(
        "mistral_hub",
        "mistral",
        sized(
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=12,
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

_MIXTRAL = [
    Case("mixtral", "mixtral", _mixtral()),
    Case("mixtral_window", "mixtral", _mixtral(sliding_window=8, head_dim=24)),
    Case(
        "mixtral_hub",
        "mixtral",
        _mixtral(
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=None,
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            num_experts_per_tok=1,
            output_router_logits=False,
            router_aux_loss_coef=0.02,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
    ),
]

CASES = _MISTRAL + _MIXTRAL
