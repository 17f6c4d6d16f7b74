"""Bamba: Mamba 2 and a few layers of attention."""

from __future__ import annotations

from typing import Any

from .case import Case, sized

MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}
"""Eight heads of 16 that share B and C in fours; the reference works in chunks of 16."""


def _bamba(**changes: Any) -> dict[str, Any]:
    return sized(**(MAMBA2 | {"attn_layer_indices": [1]} | changes))


CASES = [
    Case("bamba", "bamba", _bamba()),
    Case(
        "bamba_options",
        "bamba",
        _bamba(
            num_hidden_layers=2,
            head_dim=24,
            attention_bias=True,
            mlp_bias=True,
            mamba_expand=3,
            mamba_n_heads=12,
            mamba_d_head=16,
            mamba_n_groups=3,
            mamba_d_conv=3,
            mamba_conv_bias=False,
            mamba_proj_bias=True,
            time_step_limit=[0.5, 0.9],
            tie_word_embeddings=True,
            rope_theta=500.0,
        ),
    ),
    # Where no layer is named, none attends.
    Case("bamba_recurrent", "bamba", _bamba(num_hidden_layers=2, attn_layer_indices=None)),
    Case(
        "bamba_hub",
        "bamba",
        _bamba(
            rms_norm_eps=1e-5,
            attention_dropout=0.0,
            attn_rotary_emb=8,
            bos_token_id=0,
            eos_token_id=1,
            hidden_act="silu",
            initializer_range=0.02,
            mamba_chunk_size=256,
            mamba_conv_bias=True,
            mamba_d_conv=4,
            mamba_d_head=16,
            mamba_dt_rank=256,
            mamba_expand=2,
            mamba_n_groups=1,
            mamba_proj_bias=False,
            num_logits_to_keep=1,
            pad_token_id=0,
            partial_rotary_factor=0.5,
            rope_scaling=None,
            rope_theta=10000.0,
            tie_word_embeddings=False,
            use_cache=True,
            use_mamba_kernels=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
