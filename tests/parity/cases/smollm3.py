"""SmolLM 3."""

from __future__ import annotations

from .case import Case, rope, sized

CASES = [
    # Every fourth layer has no rope.
    Case("smollm3", "smollm3", sized(num_hidden_layers=4, pad_token_id=0)),
    # The layers without a rope get the window.
    Case(
        "smollm3_window",
        "smollm3",
        sized(
            head_dim=24,
            pad_token_id=0,
            no_rope_layer_interval=2,
            use_sliding_window=True,
            sliding_window=8,
            attention_bias=True,
            mlp_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=False,
            **rope("linear", 500.0, factor=3.0),
        ),
    ),
    # Which layers have a window is independent of which have a rope.
    Case(
        "smollm3_layer_types",
        "smollm3",
        sized(
            pad_token_id=0,
            no_rope_layers=[0, 1, 1],
            use_sliding_window=True,
            sliding_window=8,
            layer_types=["full_attention", "full_attention", "sliding_attention"],
        ),
    ),
    Case(
        "smollm3_hub",
        "smollm3",
        sized(
            rms_norm_eps=1e-6,
            num_hidden_layers=4,
            rope_theta=5000000.0,
            rope_scaling=None,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=4,
            hidden_act="silu",
            initializer_range=0.02,
            layer_types=["full_attention"] * 4,
            max_position_embeddings=65536,
            max_window_layers=28,
            mlp_bias=False,
            no_rope_layer_interval=4,
            no_rope_layers=[1, 1, 1, 0],
            pretraining_tp=2,
            sliding_window=None,
            tie_word_embeddings=True,
            use_cache=False,
            use_sliding_window=False,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
