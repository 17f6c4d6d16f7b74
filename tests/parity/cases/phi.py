"""Phi, Phi 3 and PhiMoE."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _phi(**changes: Any) -> dict[str, Any]:
    sizes = sized(layer_norm_eps=1e-3)
    del sizes["rms_norm_eps"]
    return sizes | changes


def _phimoe(**changes: Any) -> dict[str, Any]:
    """Six experts of 40; logits are often close enough for the mixer to weigh several."""
    return sized(intermediate_size=40, num_local_experts=6, num_experts_per_tok=2) | changes


_SHORT_FACTOR = [1.0, 1.1, 1.3, 1.5]
_LONG_FACTOR = [1.2, 1.9, 3.4, 5.5]

_PHI = [
    # Half of each head turns, which is what the model type does where its file says nothing.
    Case("phi", "phi", _phi()),
    Case(
        "phi_qk_layernorm",
        "phi",
        _phi(
            qk_layernorm=True,
            hidden_act="gelu",
            num_key_value_heads=None,
            rope_parameters={
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.25,
            },
        ),
    ),
    Case(
        "phi_hub",
        "phi",
        {
            "_name_or_path": "microsoft/phi-2",
            "attention_dropout": 0.0,
            "bos_token_id": 50256,
            "embd_pdrop": 0.0,
            "eos_token_id": 50256,
            "hidden_act": "gelu_new",
            "hidden_size": 48,
            "initializer_range": 0.02,
            "intermediate_size": 128,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 128,
            "num_attention_heads": 3,
            "num_hidden_layers": 3,
            "num_key_value_heads": 3,
            "partial_rotary_factor": 0.25,
            "qk_layernorm": False,
            "resid_pdrop": 0.1,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "transformers_version": "4.37.0",
            "use_cache": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]

_PHI3 = [
    Case("phi3", "phi3", sized(pad_token_id=0, sliding_window=8)),
    # Lengths 40 and 17 lie on both sides of original_max_position_embeddings, and half a head
    # turns: four frequencies of a head of 16.
    Case(
        "phi3_longrope",
        "phi3",
        sized(
            pad_token_id=0,
            max_position_embeddings=96,
            original_max_position_embeddings=24,
            tie_word_embeddings=True,
            num_key_value_heads=4,
            **rope(
                "longrope",
                500.0,
                partial_rotary_factor=0.5,
                short_factor=_SHORT_FACTOR,
                long_factor=_LONG_FACTOR,
            ),
        ),
    ),
    Case(
        "phi3_hub",
        "phi3",
        {
            "_name_or_path": "Phi-4-mini-instruct",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 199999,
            "embd_pdrop": 0.0,
            "eos_token_id": 199999,
            "full_attn_mod": 1,
            "hidden_act": "silu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 112,
            "interpolate_factor": 1,
            "lm_head_bias": False,
            "max_position_embeddings": 128,
            "mlp_bias": False,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "original_max_position_embeddings": 32,
            "pad_token_id": 0,
            "partial_rotary_factor": 0.5,
            "resid_pdrop": 0.0,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "long_factor": _LONG_FACTOR,
                "short_factor": _SHORT_FACTOR,
                "type": "longrope",
            },
            "rope_theta": 10000.0,
            "sliding_window": 262144,
            "tie_word_embeddings": True,
            "transformers_version": "4.45.0",
            "use_cache": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]

_PHIMOE = [
    # A wide jitter, so that several experts share the softmax.
    Case(
        "phimoe",
        "phimoe",
        _phimoe(attention_bias=True, lm_head_bias=True, router_jitter_noise=0.4, sliding_window=8),
    ),
    Case(
        "phimoe_hub",
        "phimoe",
        {
            "attention_bias": True,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 32000,
            "hidden_act": "silu",
            "hidden_dropout": 0.0,
            "hidden_size": 64,
            "initializer_range": 0.02,
            "input_jitter_noise": 0.01,
            "intermediate_size": 40,
            "lm_head_bias": True,
            "max_position_embeddings": 96,
            "num_attention_heads": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "num_local_experts": 6,
            "original_max_position_embeddings": 24,
            "output_router_logits": False,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "long_factor": [1.0, 1.1, 1.2, 1.3, 1.9, 2.6, 3.4, 5.5],
                "long_mscale": 1.243163121016122,
                "original_max_position_embeddings": 24,
                "short_factor": [1.0, 1.04, 1.1, 1.2, 1.3, 1.4, 1.6, 2.0],
                "short_mscale": 1.1,
                "type": "longrope",
            },
            "rope_theta": 10000.0,
            "router_aux_loss_coef": 0.0,
            "router_jitter_noise": 0.01,
            "sliding_window": 131072,
            "tie_word_embeddings": False,
            "transformers_version": "4.43.3",
            "use_cache": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]

CASES = _PHI + _PHI3 + _PHIMOE
