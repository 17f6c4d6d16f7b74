"""Gemma 4, text."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _case(name: str, config: dict[str, Any], **options: Any) -> Case:
    """Small norm weights: scores are not divided by the root of the head size, and sharp ones would
    magnify every rounding."""
    return Case(name, "gemma4_text", config, norm_low=0.0, **options)


def _gemma(**changes: Any) -> dict[str, Any]:
    """Heads of 16 in windows of 8 and of 32 elsewhere; every layer has an embedding of 12."""
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": 96,
        "hidden_size_per_layer_input": 12,
    }
    config = sized(**(sizes | changes))
    if config["layer_types"]:
        config["layer_types"] = config["layer_types"][: config["num_hidden_layers"]]
    return config


_MOE = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 40}

_HUB = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "tie_word_embeddings": True,
    "use_bidirectional_attention": None,
    "use_cache": True,
}
"""What the files of all sizes have."""

CASES = [
    # The default pattern: every sixth layer is full.
    _case(
        "gemma4_text",
        _gemma(num_hidden_layers=6, layer_types=None, final_logit_softcapping=2.0),
    ),
    # The last three layers use the keys and values of layers 1 and 2, and have wide blocks.
    _case(
        "gemma4_text_shared",
        _gemma(
            num_hidden_layers=6,
            num_kv_shared_layers=3,
            use_double_wide_mlp=True,
            layer_types=["sliding_attention", "full_attention"] * 3,
        ),
    ),
    # On full layers a value is its key before the norm; experts beside every dense block.
    _case(
        "gemma4_text_moe",
        _gemma(
            **_MOE,
            hidden_size_per_layer_input=0,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            num_hidden_layers=4,
            use_double_wide_mlp=True,
            tie_word_embeddings=False,
        ),
    ),
    # Everything at once.
    _case(
        "gemma4_text_options",
        _gemma(
            **_MOE,
            num_hidden_layers=4,
            num_kv_shared_layers=1,
            attention_k_eq_v=True,
            use_double_wide_mlp=True,
            attention_bias=True,
            hidden_activation="silu",
            layer_types=["sliding_attention"] + ["full_attention"] * 3,
            rope_parameters={
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.5,
                    "rope_theta": 5000.0,
                    "factor": 2.0,
                },
                "sliding_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0},
            },
        ),
    ),
    # The small one.
    _case(
        "gemma4_text_hub",
        _gemma(
            **_HUB,
            num_hidden_layers=6,
            num_key_value_heads=1,
            attention_k_eq_v=False,
            enable_moe_block=False,
            expert_intermediate_size=None,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
            moe_intermediate_size=None,
            num_experts=None,
            num_global_key_value_heads=None,
            num_kv_shared_layers=3,
            top_k_experts=None,
            use_double_wide_mlp=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
    # The sparse one.
    _case(
        "gemma4_text_hub_moe",
        _gemma(
            **_HUB,
            **_MOE,
            hidden_size_per_layer_input=0,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            num_kv_shared_layers=0,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            use_double_wide_mlp=False,
        ),
        hub_style=True,
        dtype="bfloat16",
        shards=2,
    ),
]
