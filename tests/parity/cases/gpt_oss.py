"""gpt-oss."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _gpt_oss(**changes: Any) -> dict[str, Any]:
    """Six experts of 40, two of them per token; the clamp of the experts is within reach."""
    sizes = {
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "head_dim": 24,
        "sliding_window": 8,
        "swiglu_limit": 1.0,
    }
    return sized(**(sizes | changes))


CASES = [
    # The yarn rope that the model type has where its file names none; windows on even layers.
    Case("gpt_oss", "gpt_oss", _gpt_oss()),
    Case(
        "gpt_oss_options",
        "gpt_oss",
        _gpt_oss(
            num_hidden_layers=3,
            attention_bias=False,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
            num_experts_per_tok=3,
            swiglu_alpha=1.3,
            swiglu_limit=0.6,
            tie_word_embeddings=True,
            **rope("default", 5000.0),
        ),
    ),
    Case(
        "gpt_oss_yarn",
        "gpt_oss",
        _gpt_oss(
            num_hidden_layers=2,
            swiglu_limit=7.0,
            **rope("yarn", 500.0, factor=4.0, original_max_position_embeddings=32, beta_fast=4.0),
        ),
    ),
    Case(
        "gpt_oss_hub",
        "gpt_oss",
        _gpt_oss(
            rms_norm_eps=1e-5,
            rope_theta=150000,
            rope_scaling={
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "rope_type": "yarn",
                "truncate": False,
            },
            max_position_embeddings=131072,
            initial_context_length=4096,
            attention_bias=True,
            attention_dropout=0.0,
            eos_token_id=1,
            pad_token_id=0,
            experts_per_token=2,
            hidden_act="silu",
            initializer_range=0.02,
            layer_types=["sliding_attention", "full_attention"] * 2,
            output_router_logits=False,
            router_aux_loss_coef=0.9,
            swiglu_limit=7.0,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
