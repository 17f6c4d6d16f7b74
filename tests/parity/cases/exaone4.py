"""EXAONE 4.0."""

from __future__ import annotations

from .case import Case, rope, sized

_HUB = {
    "rms_norm_eps": 1e-5,
    "head_dim": 24,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 61,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 1000000,
    "use_cache": True,
}
"""What the files of both sizes have."""

CASES = [
    # The default pattern: every fourth layer is full, and the full ones have no rope.
    Case("exaone4", "exaone4", sized(num_hidden_layers=4, sliding_window=8)),
    Case(
        "exaone4_options",
        "exaone4",
        sized(
            head_dim=24,
            sliding_window=8,
            sliding_window_pattern=2,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=3.0),
        ),
    ),
    Case(
        "exaone4_layer_types",
        "exaone4",
        sized(
            sliding_window=8,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        ),
    ),
    # The large one: a pattern in letters beside the layer types that it stands for.
    Case(
        "exaone4_hub",
        "exaone4",
        sized(
            **_HUB,
            num_hidden_layers=4,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
            max_position_embeddings=131072,
            sliding_window=8,
            sliding_window_pattern="LLLG",
            tie_word_embeddings=False,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
    # The small one: no windows, and so a rope on every layer.
    Case(
        "exaone4_hub_full",
        "exaone4",
        sized(
            **_HUB,
            num_hidden_layers=2,
            layer_types=["full_attention"] * 2,
            max_position_embeddings=65536,
            sliding_window=None,
            sliding_window_pattern=None,
            tie_word_embeddings=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
