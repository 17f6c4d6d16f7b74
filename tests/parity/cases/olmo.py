"""OLMo, OLMo 2, OLMo 3 and OLMoE."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized

_HUB = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
    "use_cache": True,
}
"""What the files of all three have."""


def _olmo(**changes: Any) -> dict[str, Any]:
    """Its norms have no weights, and an epsilon that no key names."""
    sizes = sized()
    del sizes["rms_norm_eps"]
    return sizes | changes


_OLMO = [
    Case("olmo", "olmo", _olmo()),
    Case(
        "olmo_options",
        "olmo",
        _olmo(
            head_dim=24,
            clip_qkv=0.6,
            attention_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=2.0),
        ),
    ),
    Case(
        "olmo_hub",
        "olmo",
        _olmo(
            **_HUB,
            clip_qkv=None,
            num_key_value_heads=4,
            eos_token_id=2,
            rope_scaling=None,
            rope_theta=10000.0,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

_OLMO2 = [
    Case("olmo2", "olmo2", sized(tie_word_embeddings=True)),
    Case(
        "olmo2_options",
        "olmo2",
        sized(
            head_dim=24,
            num_hidden_layers=2,
            attention_bias=True,
            hidden_act="gelu",
            **rope("yarn", 500.0, factor=4.0, original_max_position_embeddings=32),
        ),
    ),
    Case(
        "olmo2_hub",
        "olmo2",
        sized(
            **_HUB,
            num_key_value_heads=4,
            rms_norm_eps=1e-6,
            eos_token_id=2,
            rope_scaling=None,
            rope_theta=500000,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

_OLMO3 = [
    # The default pattern: every fourth layer is full.
    Case("olmo3", "olmo3", sized(num_hidden_layers=4, sliding_window=8, attention_bias=True)),
    Case(
        "olmo3_options",
        "olmo3",
        sized(
            head_dim=24,
            hidden_act="gelu",
            sliding_window=8,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
            tie_word_embeddings=True,
            rope_parameters={
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 500.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                },
                "sliding_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0},
            },
        ),
    ),
    # The stretched rope is for full layers only.
    Case(
        "olmo3_hub",
        "olmo3",
        sized(
            **_HUB,
            num_hidden_layers=4,
            num_key_value_heads=4,
            rms_norm_eps=1e-6,
            bos_token_id=3,
            eos_token_id=2,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
            max_position_embeddings=65536,
            rope_scaling={
                "attention_factor": 1.2079441541679836,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "yarn",
            },
            rope_theta=500000,
            sliding_window=8,
        ),
        hub_style=True,
        dtype="bfloat16",
        shards=2,
    ),
]


def _moe(**changes: Any) -> dict[str, Any]:
    """Six experts of 40, two of them per token."""
    sizes = {"intermediate_size": 40, "num_experts": 6, "num_experts_per_tok": 2}
    return sized(**(sizes | changes))


_OLMOE = [
    # The clip is close to the values, and comes after the norm of queries and keys.
    Case("olmoe", "olmoe", _moe(clip_qkv=0.7)),
    Case(
        "olmoe_options",
        "olmoe",
        _moe(
            num_hidden_layers=2,
            num_experts_per_tok=3,
            norm_topk_prob=True,
            attention_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=3.0),
        ),
    ),
    Case(
        "olmoe_hub",
        "olmoe",
        _moe(
            **_HUB,
            num_key_value_heads=4,
            rms_norm_eps=1e-5,
            clip_qkv=None,
            eos_token_id=2,
            norm_topk_prob=False,
            output_router_logits=False,
            rope_scaling=None,
            rope_theta=10000.0,
            router_aux_loss_coef=0.01,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

CASES = _OLMO + _OLMO2 + _OLMO3 + _OLMOE
