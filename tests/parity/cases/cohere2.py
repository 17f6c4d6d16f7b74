"""Cohere 2 (Command R7B)."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _cohere2(**changes: Any) -> dict[str, Any]:
    """The logits stand out beside the scale of 1/16 that the model type has."""
    sizes = sized(
        num_hidden_layers=4, layer_norm_eps=1e-3, sliding_window=8, eos_token_id=1, logit_scale=1.7
    )
    del sizes["rms_norm_eps"]
    return sizes | changes


CASES = [
    # Windows and a rope on three layers of four; the fourth has neither.
    Case("cohere2", "cohere2", _cohere2()),
    Case(
        "cohere2_layer_types",
        "cohere2",
        _cohere2(
            num_hidden_layers=3,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
            attention_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=False,
            **rope("linear", 500.0, factor=2.0),
        ),
    ),
    Case(
        "cohere2_hub",
        "cohere2",
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 5,
            "cache_implementation": "hybrid",
            "eos_token_id": 1,
            "head_dim": 16,
            "hidden_act": "silu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 112,
            "layer_norm_eps": 1e-05,
            "layer_switch": 4,
            "logit_scale": 0.75,
            "max_position_embeddings": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "order_of_interleaved_layers": "local_attn_first",
            "pad_token_id": 0,
            "position_embedding_type": "rope_gptj",
            "rope_scaling": None,
            "rope_theta": 50000,
            "rotary_pct": 1.0,
            "sliding_window": 8,
            "sliding_window_pattern": 3,
            "transformers_version": "4.48.0",
            "use_cache": True,
            "use_embedding_sharing": True,
            "use_gated_activation": True,
            "use_parallel_block": True,
            "use_parallel_embedding": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]
