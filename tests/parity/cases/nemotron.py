"""Nemotron 3 and 4, and Minitron."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _nemotron(**changes: Any) -> dict[str, Any]:
    sizes = sized(norm_eps=1e-3)
    del sizes["rms_norm_eps"]
    return sizes | changes


CASES = [
    # Half of each head turns, which is what the model type does unless told otherwise.
    Case("nemotron", "nemotron", _nemotron(head_dim=24), norm_low=-0.5),
    Case(
        "nemotron_bias",
        "nemotron",
        _nemotron(
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            hidden_act="gelu",
            rope_parameters={
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.25,
            },
        ),
        norm_low=-0.5,
    ),
    Case(
        "nemotron_hub",
        "nemotron",
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "head_dim": 24,
            "hidden_act": "relu2",
            "hidden_size": 64,
            "initializer_range": 0.0134,
            "intermediate_size": 112,
            "max_position_embeddings": 128,
            "mlp_bias": False,
            "norm_eps": 1e-05,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.5,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "transformers_version": "4.44.0",
            "use_cache": True,
            "vocab_size": 96,
        },
        norm_low=-0.5,
        hub_style=True,
    ),
]
