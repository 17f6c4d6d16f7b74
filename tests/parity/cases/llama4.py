"""Llama 4, text."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _llama4(**changes: Any) -> dict[str, Any]:
    """Six experts of 40, chunks of 8 positions, queries that grow every 4 positions."""
    sizes = {
        "intermediate_size": 40,
        "intermediate_size_mlp": 112,
        "num_hidden_layers": 4,
        "head_dim": 24,
        "num_local_experts": 6,
        "attention_chunk_size": 8,
        "floor_scale": 4,
        "attn_scale": 0.5,
    }
    return sized(**(sizes | changes))


CASES = [
    # Every layer sparse; the fourth without a rope and without chunks.
    Case("llama4_text", "llama4_text", _llama4()),
    Case(
        "llama4_text_dense",
        "llama4_text",
        _llama4(
            interleave_moe_layer_step=2,
            num_experts_per_tok=2,
            attention_bias=True,
            use_qk_norm=False,
            no_rope_layers=[1, 0, 1, 1],
            attn_temperature_tuning=False,
            attention_chunk_size=None,
            hidden_act="gelu",
            tie_word_embeddings=True,
            **rope("linear", 500.0, factor=3.0),
        ),
    ),
    # Which layers are chunked is independent of which have a rope.
    Case(
        "llama4_text_layer_types",
        "llama4_text",
        _llama4(
            num_hidden_layers=3,
            no_rope_layer_interval=2,
            moe_layers=[0],
            layer_types=["full_attention", "chunked_attention", "chunked_attention"],
        ),
    ),
    # As Scout spells it. Its two frequency factors are equal, so nothing lies between them.
    Case(
        "llama4_text_hub",
        "llama4_text",
        _llama4(
            rms_norm_eps=1e-5,
            rope_theta=500000.0,
            rope_scaling={
                "factor": 16.0,
                "high_freq_factor": 1.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            max_position_embeddings=10485760,
            attention_bias=False,
            attention_dropout=0.0,
            attn_temperature_tuning=True,
            bos_token_id=0,
            eos_token_id=[1, 2],
            pad_token_id=3,
            for_llm_compressor=False,
            hidden_act="silu",
            initializer_range=0.02,
            interleave_moe_layer_step=1,
            moe_layers=[0, 1, 2, 3],
            no_rope_layers=[],
            num_experts_per_tok=1,
            output_router_logits=False,
            router_aux_loss_coef=0.001,
            router_jitter_noise=0.0,
            tie_word_embeddings=False,
            use_cache=True,
            use_qk_norm=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]
