"""Apertus."""

from __future__ import annotations

from .case import Case, rope, sized

CASES = [
    # Without a word on the rope it is Llama 3's, with figures of this model type.
    Case("apertus", "apertus", sized(max_position_embeddings=65536)),
    Case(
        "apertus_options",
        "apertus",
        sized(
            head_dim=24,
            num_hidden_layers=2,
            attention_bias=True,
            hidden_act="relu2",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=3.0),
        ),
    ),
    Case(
        "apertus_hub",
        "apertus",
        sized(
            rms_norm_eps=1e-5,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=68,
            pad_token_id=3,
            hidden_act="xielu",
            hidden_dropout=0.0,
            initializer_range=0.02,
            max_position_embeddings=65536,
            mlp_bias=False,
            post_norm=False,
            qk_norm=True,
            rope_scaling={
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            rope_theta=12000000,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
