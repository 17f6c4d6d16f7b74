"""Seed-OSS."""

from __future__ import annotations

from .case import Case, rope, sized

CASES = [
    # Biased queries, keys and values, and no biased output.
    Case("seed_oss", "seed_oss", sized(head_dim=24)),
    Case(
        "seed_oss_options",
        "seed_oss",
        sized(
            head_dim=16,
            num_hidden_layers=2,
            attention_bias=False,
            attention_out_bias=True,
            mlp_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=3.0),
        ),
    ),
    Case(
        "seed_oss_hub",
        "seed_oss",
        sized(
            rms_norm_eps=1e-6,
            head_dim=24,
            attention_bias=True,
            attention_dropout=0.1,
            attention_out_bias=False,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_position_embeddings=524288,
            mlp_bias=False,
            residual_dropout=0.1,
            rope_scaling={"rope_type": "default"},
            rope_theta=10000000.0,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
