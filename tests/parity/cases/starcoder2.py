"""StarCoder 2."""

from __future__ import annotations

from typing import Any

from .case import Case, rope, sized


def _starcoder2(**changes: Any) -> dict[str, Any]:
    sizes = sized(norm_epsilon=1e-3)
    del sizes["rms_norm_eps"]
    return sizes | changes


CASES = [
    Case("starcoder2", "starcoder2", _starcoder2(sliding_window=8)),
    Case(
        "starcoder2_no_bias",
        "starcoder2",
        _starcoder2(
            use_bias=False, tie_word_embeddings=False, hidden_act="gelu", **rope("default", 500.0)
        ),
    ),
    Case(
        "starcoder2_hub",
        "starcoder2",
        {
            "activation_function": "gelu",
            "attention_dropout": 0.1,
            "attention_softmax_in_fp32": True,
            "bos_token_id": 0,
            "embedding_dropout": 0.1,
            "eos_token_id": 0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 64,
            "initializer_range": 0.018042,
            "intermediate_size": 128,
            "layer_norm_epsilon": 1e-05,
            "max_position_embeddings": 128,
            "mlp_type": "default",
            "norm_epsilon": 1e-05,
            "norm_type": "layer_norm",
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "residual_dropout": 0.1,
            "rope_theta": 999999.4420358813,
            "scale_attention_softmax_in_fp32": True,
            "scale_attn_weights": True,
            "sliding_window": 12,
            "transformers_version": "4.39.0",
            "use_bias": True,
            "use_cache": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]
