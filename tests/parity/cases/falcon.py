"""Falcon, in its three layouts of queries, keys and values."""

from __future__ import annotations

from typing import Any

from .case import Case, rope


def _falcon(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 96,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "layer_norm_epsilon": 1e-3,
        "max_position_embeddings": 64,
    } | changes


CASES = [
    # One key and value head, and one norm for the parallel block.
    Case("falcon", "falcon", _falcon()),
    # As in falcon-40b: two kv heads, each behind its queries, and two norms.
    Case(
        "falcon_new",
        "falcon",
        _falcon(new_decoder_architecture=True, num_kv_heads=2, **rope("default", 500.0)),
    ),
    # As in falcon-11b: the same with one norm.
    Case(
        "falcon_new_one_norm",
        "falcon",
        _falcon(
            new_decoder_architecture=True,
            num_kv_heads=2,
            num_ln_in_parallel_attn=1,
            ffn_hidden_size=112,
            tie_word_embeddings=False,
            activation="gelu_pytorch_tanh",
        ),
    ),
    Case(
        "falcon_sequential",
        "falcon",
        _falcon(multi_query=False, parallel_attn=False, bias=True),
    ),
    # As in falcon-rw. The eager attention of transformers adds its position bias twice, the
    # other one once, as the models were trained. Four of the slopes of twelve heads are no
    # powers of two, and are rounded to bfloat16, as is their product with a position.
    Case(
        "falcon_alibi",
        "falcon",
        _falcon(
            hidden_size=48,
            num_attention_heads=12,
            multi_query=False,
            parallel_attn=False,
            bias=True,
            alibi=True,
        ),
        attention="sdpa",
    ),
    Case(
        "falcon_hub",
        "falcon",
        {
            "alibi": False,
            "apply_residual_connection_post_layernorm": False,
            "attention_dropout": 0.0,
            "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"},
            "bias": False,
            "bos_token_id": 11,
            "eos_token_id": 11,
            "hidden_dropout": 0.0,
            "hidden_size": 64,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "multi_query": True,
            "new_decoder_architecture": False,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "parallel_attn": True,
            "transformers_version": "4.27.4",
            "use_cache": True,
            "vocab_size": 96,
        },
        hub_style=True,
    ),
]
