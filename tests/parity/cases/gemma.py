"""Gemma 2 and the text model of Gemma 3."""

from __future__ import annotations

from typing import Any

from .case import Case, sized


def _gemma(**changes: Any) -> dict[str, Any]:
    """Gemma sizes: sqrt(hidden_size) is irrational and the query scale is not head_dim ** -0.5."""
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "query_pre_attn_scalar": 10,
        "sliding_window": 8,
    }
    return sized(**(sizes | changes))


def _gemma_case(name: str, model_type: str, config: dict[str, Any], **options: Any) -> Case:
    return Case(name, model_type, config, norm_low=-0.5, **options)


_GEMMA2 = [
    _gemma_case(
        "gemma2",
        "gemma2",
        _gemma(attn_logit_softcapping=1.5, final_logit_softcapping=2.0),
    ),
    _gemma_case(
        "gemma2_uncapped",
        "gemma2",
        _gemma(
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            attention_bias=True,
            head_dim=24,
            tie_word_embeddings=False,
        ),
    ),
    _gemma_case(
        "gemma2_layer_types",
        "gemma2",
        _gemma(
            num_hidden_layers=3,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        ),
    ),
    _gemma_case(
        "gemma2_hub",
        "gemma2",
        _gemma(
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
            attention_bias=False,
            attention_dropout=0.0,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            bos_token_id=2,
            eos_token_id=1,
            pad_token_id=0,
            cache_implementation="hybrid",
            hidden_act="gelu_pytorch_tanh",
            hidden_activation="gelu_pytorch_tanh",
            initializer_range=0.02,
            query_pre_attn_scalar=24,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

_GEMMA3 = [
    # The default pattern: every sixth layer is full.
    _gemma_case("gemma3_text", "gemma3_text", _gemma(num_hidden_layers=6)),
    _gemma_case(
        "gemma3_text_rope",
        "gemma3_text",
        _gemma(
            layer_types=["sliding_attention", "full_attention"] * 2,
            final_logit_softcapping=2.0,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        ),
    ),
    # transformers keeps attn_logit_softcapping in this config and never applies it.
    _gemma_case(
        "gemma3_text_unapplied_cap",
        "gemma3_text",
        _gemma(
            num_hidden_layers=2,
            layer_types=["full_attention", "sliding_attention"],
            attn_logit_softcapping=1.5,
            attention_bias=True,
            tie_word_embeddings=False,
        ),
    ),
    _gemma_case(
        "gemma3_text_hub",
        "gemma3_text",
        _gemma(
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            rope_local_base_freq=10000.0,
            rope_scaling={"factor": 8.0, "rope_type": "linear"},
            sliding_window_pattern=3,
            attention_bias=False,
            attention_dropout=0.0,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            bos_token_id=2,
            eos_token_id=1,
            pad_token_id=0,
            cache_implementation="hybrid",
            head_dim=24,
            hidden_activation="gelu_pytorch_tanh",
            initializer_range=0.02,
            query_pre_attn_scalar=24,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

CASES = _GEMMA2 + _GEMMA3
