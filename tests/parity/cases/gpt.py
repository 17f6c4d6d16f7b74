"""GPT-2 and GPT-NeoX."""

from __future__ import annotations

from typing import Any

from .case import Case


def _gpt2(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 96,
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 3,
        "n_positions": 64,
        "layer_norm_epsilon": 1e-3,
    } | changes


def _neox(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-3,
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | changes


_GPT2 = [
    Case("gpt2", "gpt2", _gpt2()),
    Case(
        "gpt2_layer_scale",
        "gpt2",
        _gpt2(
            n_inner=80,
            activation_function="gelu",
            scale_attn_by_inverse_layer_idx=True,
            tie_word_embeddings=False,
        ),
    ),
    Case("gpt2_unscaled", "gpt2", _gpt2(scale_attn_weights=False, activation_function="relu")),
    Case(
        "gpt2_hub",
        "gpt2",
        {
            "activation_function": "gelu_new",
            "attn_pdrop": 0.1,
            "bos_token_id": 50256,
            "embd_pdrop": 0.1,
            "eos_token_id": 50256,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "n_ctx": 64,
            "n_embd": 64,
            "n_head": 4,
            "n_layer": 3,
            "n_positions": 64,
            "resid_pdrop": 0.1,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]

_NEOX = [
    Case("gpt_neox", "gpt_neox", _neox()),
    Case(
        "gpt_neox_sequential",
        "gpt_neox",
        _neox(
            use_parallel_residual=False,
            attention_bias=False,
            hidden_act="gelu_fast",
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 500.0,
                "partial_rotary_factor": 1.0,
            },
        ),
    ),
    Case(
        "gpt_neox_hub",
        "gpt_neox",
        {
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "gelu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 128,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "rotary_emb_base": 20000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "transformers_version": "4.24.0",
            "use_cache": True,
            "use_parallel_residual": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]

CASES = _GPT2 + _NEOX
