"""Gemma, the first."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _gemma(**changes: Any) -> dict[str, Any]:
    """Heads of 24, a hidden size whose root is irrational, and layers enough to move a tied output
    away from the scaled embedding."""
    return sized(**({"hidden_size": 48, "head_dim": 24, "num_hidden_layers": 6} | changes))


CASES = [
    Case("gemma", "gemma", _gemma(), norm_low=-0.5),
    Case(
        "gemma_options",
        "gemma",
        _gemma(
            hidden_act="silu",
            num_hidden_layers=3,
            attention_bias=True,
            num_key_value_heads=1,
            tie_word_embeddings=False,
            **rope("linear", 500.0, factor=3.0),
        ),
        norm_low=-0.5,
    ),
    # hidden_act "gelu" means the tanh form in this family.
    Case(
        "gemma_hub",
        "gemma",
        _gemma(
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            rope_scaling=None,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=2,
            eos_token_id=1,
            pad_token_id=0,
            hidden_act="gelu",
            hidden_activation=None,
            initializer_range=0.02,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
        norm_low=-0.5,
    ),
]
