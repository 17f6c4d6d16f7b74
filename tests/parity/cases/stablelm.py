"""StableLM."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _stablelm(**changes: Any) -> dict[str, Any]:
    sizes = sized(layer_norm_eps=1e-3)
    del sizes["rms_norm_eps"]
    return sizes | changes


CASES = [
    # A quarter of each head turns, which is what the model type does unless told otherwise.
    Case("stablelm", "stablelm", _stablelm(use_qkv_bias=True)),
    Case(
        "stablelm_parallel",
        "stablelm",
        _stablelm(
            use_parallel_residual=True,
            qk_layernorm=True,
            tie_word_embeddings=True,
            hidden_act="gelu",
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.5,
            },
        ),
    ),
    Case("stablelm_qk_layernorm", "stablelm", _stablelm(qk_layernorm=True)),
    Case(
        "stablelm_hub",
        "stablelm",
        {
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_dropout": 0.0,
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 112,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "partial_rotary_factor": 0.25,
            "qk_layernorm": False,
            "rope_scaling": None,
            "rope_theta": 10000,
            "tie_word_embeddings": False,
            "transformers_version": "4.40.0",
            "use_cache": True,
            "use_parallel_residual": False,
            "use_qkv_bias": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]
