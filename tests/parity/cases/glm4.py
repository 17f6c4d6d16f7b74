"""GLM 4 (0414)."""

from __future__ import annotations

from .case import Case, rope, sized

CASES = [
    # Half of a head turns, and queries, keys and values are biased.
    Case("glm4", "glm4", sized(head_dim=24, pad_token_id=0)),
    Case(
        "glm4_options",
        "glm4",
        sized(
            head_dim=32,
            pad_token_id=0,
            num_hidden_layers=2,
            attention_bias=False,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope(
                "yarn",
                500.0,
                factor=4.0,
                original_max_position_embeddings=32,
                partial_rotary_factor=0.25,
            ),
        ),
    ),
    Case(
        "glm4_hub",
        "glm4",
        sized(
            rms_norm_eps=1e-5,
            head_dim=24,
            attention_bias=False,
            attention_dropout=0.0,
            eos_token_id=[1, 2, 3],
            hidden_act="silu",
            initializer_range=0.02,
            max_position_embeddings=32768,
            pad_token_id=1,
            partial_rotary_factor=0.5,
            rope_theta=10000.0,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
