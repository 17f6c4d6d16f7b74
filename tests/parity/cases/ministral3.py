"""Ministral 3."""

from __future__ import annotations

from .case import Case, sized

_YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.4,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 8,
    "rope_theta": 1000000.0,
    "rope_type": "yarn",
}

CASES = [
    # Queries grow at every eighth position.
    Case(
        "ministral3",
        "ministral3",
        sized(head_dim=24, sliding_window=8, pad_token_id=0, rope_parameters=_YARN),
    ),
    # The rope that the model type has where its file names none.
    Case("ministral3_default_rope", "ministral3", sized(head_dim=16, pad_token_id=0)),
    Case(
        "ministral3_hub",
        "ministral3",
        {
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": 24,
            "hidden_act": "silu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 112,
            "max_position_embeddings": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "pad_token_id": 11,
            "rms_norm_eps": 1e-05,
            "rope_parameters": _YARN | {"llama_4_scaling_beta": 0.1, "type": "yarn"},
            "sliding_window": None,
            "tie_word_embeddings": True,
            "transformers_version": "5.0.0.dev0",
            "use_cache": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]
