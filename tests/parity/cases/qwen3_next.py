"""Qwen 3 Next and the text model of Qwen 3.5: gated delta rule and gated attention."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _delta(**changes: Any) -> dict[str, Any]:
    """Two key heads of 12 for four value heads of 16; a quarter of each attention head turns."""
    sizes = {
        "head_dim": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 12,
        "linear_value_head_dim": 16,
        "num_hidden_layers": 4,
    }
    return sized(**(sizes | changes))


def _moe(**changes: Any) -> dict[str, Any]:
    """Six experts of 40, two of them per token, and a shared one of 48."""
    sizes = {
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 48,
        "num_experts": 6,
        "num_experts_per_tok": 2,
    }
    return _delta(**(sizes | changes))


_HUB = {
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "full_attention_interval": 4,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "linear_conv_kernel_dim": 4,
    "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False,
    "use_cache": True,
}
"""What the files of both models have."""


def _case(name: str, model_type: str, config: dict[str, Any], **options: Any) -> Case:
    return Case(name, model_type, config, norm_low=-0.5, **options)


_NEXT = [
    # Layer 3 attends.
    _case("qwen3_next", "qwen3_next", _moe()),
    # Every second layer attends; layers 1 and 3 would be sparse by the step, layer 3 is dense by
    # name.
    _case(
        "qwen3_next_options",
        "qwen3_next",
        _moe(
            full_attention_interval=2,
            linear_conv_kernel_dim=3,
            linear_num_value_heads=6,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            norm_topk_prob=False,
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=2.0, partial_rotary_factor=0.5),
        ),
    ),
    _case(
        "qwen3_next_hub",
        "qwen3_next",
        _moe(
            **_HUB,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            norm_topk_prob=True,
            output_router_logits=False,
            rope_scaling=None,
            rope_theta=10000000,
            router_aux_loss_coef=0.001,
            use_sliding_window=False,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

_QWEN3_5 = [
    _case("qwen3_5_text", "qwen3_5_text", _delta()),
    _case(
        "qwen3_5_text_options",
        "qwen3_5_text",
        _delta(
            num_hidden_layers=3,
            layer_types=["full_attention", "linear_attention", "full_attention"],
            linear_conv_kernel_dim=3,
            linear_num_value_heads=6,
            tie_word_embeddings=True,
            **rope("default", 500.0, partial_rotary_factor=0.75),
        ),
    ),
    _case(
        "qwen3_5_text_hub",
        "qwen3_5_text",
        _delta(
            **_HUB,
            attn_output_gate=True,
            layer_types=["linear_attention"] * 3 + ["full_attention"],
            mamba_ssm_dtype="float32",
            mlp_only_layers=[],
            mtp_num_hidden_layers=1,
            mtp_use_dedicated_embeddings=False,
            rope_parameters={
                "mrope_interleaved": True,
                "mrope_section": [1, 1, 1],
                "partial_rotary_factor": 0.25,
                "rope_theta": 10000000,
                "rope_type": "default",
            },
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

CASES = _NEXT + _QWEN3_5
