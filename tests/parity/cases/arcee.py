"""Arcee (AFM)."""

from __future__ import annotations

from .case import Case, rope, sized

CASES = [
    Case("arcee", "arcee", sized(head_dim=24)),
    Case(
        "arcee_bias",
        "arcee",
        sized(
            attention_bias=True,
            mlp_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=2.0),
        ),
    ),
    Case(
        "arcee_hub",
        "arcee",
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "head_dim": 16,
            "hidden_act": "relu2",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 112,
            "max_position_embeddings": 2048,
            "mlp_bias": False,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 20.0,
                "mscale": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "yarn",
                "type": "yarn",
            },
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "transformers_version": "4.53.0",
            "use_cache": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]
