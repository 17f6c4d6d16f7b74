"""OPT."""

from __future__ import annotations

from typing import Any

from .case import Case


def _opt(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 96,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "ffn_dim": 112,
        "max_position_embeddings": 64,
        "num_attention_heads": 3,
        "word_embed_proj_dim": 48,
    } | changes


CASES = [
    Case("opt", "opt", _opt()),
    # As in opt-350m: norms after the sums, none at the end, and embeddings of another size.
    Case(
        "opt_norm_after",
        "opt",
        _opt(do_layer_norm_before=False, word_embed_proj_dim=32, activation_function="gelu"),
    ),
    Case(
        "opt_bare",
        "opt",
        _opt(enable_bias=False, layer_norm_elementwise_affine=False, tie_word_embeddings=False),
    ),
    Case("opt_no_final_norm", "opt", _opt(_remove_final_layer_norm=True)),
    Case(
        "opt_hub",
        "opt",
        {
            "_name_or_path": "facebook/opt-125m",
            "_remove_final_layer_norm": False,
            "activation_dropout": 0.0,
            "activation_function": "relu",
            "attention_dropout": 0.0,
            "bos_token_id": 2,
            "do_layer_norm_before": True,
            "dropout": 0.1,
            "eos_token_id": 2,
            "ffn_dim": 128,
            "hidden_size": 64,
            "init_std": 0.02,
            "layerdrop": 0.0,
            "max_position_embeddings": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "pad_token_id": 1,
            "prefix": "</s>",
            "transformers_version": "4.21.0.dev0",
            "use_cache": True,
            "vocab_size": 96,
            "word_embed_proj_dim": 64,
        },
        hub_style=True,
    ),
]
