"""BLOOM."""

from __future__ import annotations

from typing import Any

from .case import Case


def _bloom(**changes: Any) -> dict[str, Any]:
    """Three heads: the slopes of a count that is no power of two come from two series."""
    return {
        "vocab_size": 96,
        "hidden_size": 48,
        "n_layer": 3,
        "n_head": 3,
        "layer_norm_epsilon": 1e-3,
    } | changes


CASES = [
    Case("bloom", "bloom", _bloom()),
    Case(
        "bloom_residual_from_norm",
        "bloom",
        _bloom(apply_residual_connection_post_layernorm=True, tie_word_embeddings=False),
    ),
    Case(
        "bloom_hub",
        "bloom",
        {
            "apply_residual_connection_post_layernorm": False,
            "attention_dropout": 0.0,
            "attention_softmax_in_fp32": True,
            "bias_dropout_fusion": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_dropout": 0.0,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "masked_softmax_fusion": True,
            "n_embed": 48,
            "n_inner": None,
            "n_layer": 3,
            "num_attention_heads": 3,
            "offset_alibi": 100,
            "pad_token_id": 3,
            "pretraining_tp": 2,
            "seq_length": 64,
            "skip_bias_add": True,
            "skip_bias_add_qkv": False,
            "slow_but_exact": False,
            "transformers_version": "4.20.0",
            "unk_token_id": 0,
            "use_cache": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]
