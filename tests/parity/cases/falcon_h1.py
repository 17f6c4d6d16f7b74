"""Falcon H1: attention and Mamba 2 beside each other in every layer."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _falcon(**changes: Any) -> dict[str, Any]:
    """Six heads of 12 for the recurrence, which is not twice the hidden size; every multiplier
    differs from one and from the others."""
    sizes = {
        "mamba_d_ssm": 72,
        "mamba_n_heads": 6,
        "mamba_n_groups": 2,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
        "embedding_multiplier": 5.0,
        "lm_head_multiplier": 0.7,
        "key_multiplier": 1.4,
        "attention_in_multiplier": 1.3,
        "attention_out_multiplier": 0.8,
        "ssm_in_multiplier": 1.2,
        "ssm_out_multiplier": 0.9,
        "ssm_multipliers": [0.7, 1.3, 1.5, 0.6, 1.7],
        "mlp_multipliers": [1.6, 0.75],
    }
    return sized(**(sizes | changes))


CASES = [
    Case("falcon_h1", "falcon_h1", _falcon()),
    # The gated norm, gate after it.
    Case(
        "falcon_h1_options",
        "falcon_h1",
        _falcon(
            num_hidden_layers=2,
            mamba_rms_norm=True,
            mamba_norm_before_gate=True,
            head_dim=24,
            attention_bias=True,
            mlp_bias=True,
            mamba_proj_bias=True,
            projectors_bias=False,
            mamba_conv_bias=False,
            mamba_d_conv=3,
            time_step_limit=[0.5, 0.9],
            tie_word_embeddings=True,
            **rope("default", 500.0),
        ),
    ),
    # The inner size from mamba_expand, a bias behind and not before the recurrence.
    Case(
        "falcon_h1_expand",
        "falcon_h1",
        _falcon(
            num_hidden_layers=2,
            mamba_d_ssm=None,
            mamba_expand=3,
            mamba_n_heads=12,
            mamba_d_head=16,
            mamba_n_groups=3,
            mamba_proj_bias=False,
            projectors_bias=True,
        ),
    ),
    # The gated norm, gate before it.
    Case(
        "falcon_h1_hub",
        "falcon_h1",
        _falcon(
            rms_norm_eps=1e-5,
            attention_bias=False,
            attention_dropout=0.0,
            attention_in_multiplier=1.0,
            attention_out_multiplier=0.9375,
            attn_layer_indices=None,
            bos_token_id=1,
            embedding_multiplier=5.656854249492381,
            eos_token_id=11,
            head_dim=16,
            hidden_act="silu",
            initializer_range=0.02,
            key_multiplier=0.39062499999999994,
            lm_head_multiplier=0.390625,
            mamba_chunk_size=128,
            mamba_conv_bias=True,
            mamba_d_conv=4,
            mamba_d_head=12,
            mamba_expand=2,
            mamba_n_groups=1,
            mamba_norm_before_gate=False,
            mamba_proj_bias=False,
            mamba_rms_norm=True,
            mamba_use_mlp=True,
            mlp_bias=False,
            mlp_expansion_factor=8,
            mlp_multipliers=[0.8838834764831844, 0.5859375],
            num_logits_to_keep=1,
            pad_token_id=0,
            projectors_bias=False,
            rope_scaling=None,
            rope_theta=100000000000.0,
            ssm_in_multiplier=1.25,
            ssm_multipliers=[0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
            ssm_out_multiplier=0.23570226039551587,
            tie_word_embeddings=False,
            time_step_floor=0.0001,
            time_step_limit=[0.0, float("inf")],
            time_step_max=0.1,
            time_step_min=0.001,
            time_step_rank="auto",
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
