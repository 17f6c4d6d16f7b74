"""ERNIE 4.5, dense."""

from __future__ import annotations

from .case import Case, rope, sized

CASES = [
    Case("ernie4_5", "ernie4_5", sized(head_dim=24)),
    Case(
        "ernie4_5_options",
        "ernie4_5",
        sized(
            head_dim=None,
            num_hidden_layers=2,
            use_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=False,
            **rope("yarn", 500.0, factor=4.0, original_max_position_embeddings=32),
        ),
    ),
    Case(
        "ernie4_5_hub",
        "ernie4_5",
        sized(
            rms_norm_eps=1e-5,
            head_dim=24,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            hidden_act="silu",
            max_position_embeddings=131072,
            rope_scaling=None,
            rope_theta=500000.0,
            tie_word_embeddings=True,
            use_bias=False,
            use_cache=False,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
