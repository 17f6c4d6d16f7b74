"""LFM2: short convolutions and attention."""

from __future__ import annotations

from typing import Any

from .case import Case, rope


def _lfm2(**changes: Any) -> dict[str, Any]:
    """The feed-forward size becomes 2/3 of 120, rounded up to a multiple of 16: 80."""
    return {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 120,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "norm_eps": 1e-3,
        "block_multiple_of": 16,
    } | changes


CASES = [
    Case(
        "lfm2",
        "lfm2",
        _lfm2(layer_types=["conv", "conv", "full_attention", "conv"]),
    ),
    # 2/3 of 120, times 1.3, rounded up to a multiple of 48: 144.
    Case(
        "lfm2_options",
        "lfm2",
        _lfm2(
            num_hidden_layers=3,
            full_attn_idxs=[1],
            conv_bias=True,
            conv_L_cache=5,
            block_ffn_dim_multiplier=1.3,
            block_multiple_of=48,
            tie_word_embeddings=False,
            head_dim=24,
            **rope("linear", 500.0, factor=2.0),
        ),
    ),
    # The size as it is, and attention alone, which is what no layer list means.
    Case(
        "lfm2_plain_size",
        "lfm2",
        _lfm2(num_hidden_layers=2, block_auto_adjust_ff_dim=False),
    ),
    Case(
        "lfm2_hub",
        "lfm2",
        _lfm2(
            norm_eps=1e-5,
            block_auto_adjust_ff_dim=True,
            block_dim=64,
            block_ff_dim=100,
            block_ffn_dim_multiplier=1.0,
            block_mlp_init_scale=1.0,
            block_norm_eps=1e-5,
            block_out_init_scale=1.0,
            block_use_swiglu=True,
            block_use_xavier_init=True,
            bos_token_id=1,
            conv_L_cache=3,
            conv_bias=False,
            conv_dim=64,
            conv_dim_out=64,
            conv_use_xavier_init=True,
            eos_token_id=7,
            full_attn_idxs=[1, 3],
            initializer_range=0.02,
            num_heads=4,
            pad_token_id=0,
            rope_theta=1000000.0,
            theta=1000000.0,
            tie_embedding=True,
            use_cache=True,
            use_pos_enc=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
