"""Llama, and every rope kind, activation, dtype and layout of files with it."""

from __future__ import annotations

from .case import Case, rope, sized

_SHORT_FACTOR = [1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.8, 2.0]
_LONG_FACTOR = [1.0, 1.3, 1.9, 2.6, 3.4, 4.1, 4.8, 5.5]
_LONGROPE = {
    "short_factor": _SHORT_FACTOR,
    "long_factor": _LONG_FACTOR,
    "original_max_position_embeddings": 24,
}

CASES = [
    Case("llama", "llama", sized()),
    Case("llama_bias", "llama", sized(attention_bias=True, mlp_bias=True)),
    Case("llama_tied", "llama", sized(tie_word_embeddings=True)),
    Case("llama_head_dim", "llama", sized(head_dim=24)),
    Case("llama_mha", "llama", sized(num_key_value_heads=4)),
    Case("llama_mqa", "llama", sized(num_key_value_heads=1)),
    Case("llama_wide", "llama", sized(hidden_size=96, vocab_size=160, num_hidden_layers=2)),
    Case("llama_rope_theta", "llama", sized(**rope("default", theta=500.0))),
    Case("llama_rope_linear", "llama", sized(**rope("linear", factor=4.0))),
    # The first sequence is longer than max_position_embeddings, the second and the greedy run
    # stay below it.
    Case(
        "llama_rope_dynamic",
        "llama",
        sized(max_position_embeddings=32, **rope("dynamic", factor=3.0)),
    ),
    # Here every forward is beyond it, and so every greedy step has frequencies of its own.
    Case(
        "llama_rope_dynamic_beyond",
        "llama",
        sized(max_position_embeddings=16, **rope("dynamic", factor=3.0)),
        prompt_length=20,
    ),
    Case(
        "llama_rope_yarn",
        "llama",
        sized(
            max_position_embeddings=4096,
            **rope("yarn", factor=4.0, original_max_position_embeddings=1024),
        ),
    ),
    Case(
        "llama_rope_yarn_attention_factor",
        "llama",
        sized(
            max_position_embeddings=4096,
            **rope(
                "yarn",
                factor=8.0,
                original_max_position_embeddings=512,
                attention_factor=1.4,
                beta_fast=8.0,
                beta_slow=0.25,
            ),
        ),
    ),
    Case(
        "llama_rope_yarn_mscale",
        "llama",
        sized(
            max_position_embeddings=2048,
            **rope(
                "yarn",
                factor=16.0,
                original_max_position_embeddings=128,
                mscale=1.6,
                mscale_all_dim=0.4,
            ),
        ),
    ),
    Case(
        "llama_rope_yarn_untruncated",
        "llama",
        sized(
            head_dim=24,
            max_position_embeddings=2048,
            **rope(
                "yarn", 150000.0, factor=32.0, original_max_position_embeddings=64, truncate=False
            ),
        ),
    ),
    Case(
        "llama_rope_llama3",
        "llama",
        sized(
            max_position_embeddings=512,
            **rope(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
    ),
    # Lengths 40 and 17 lie on both sides of original_max_position_embeddings = 24.
    Case(
        "llama_rope_longrope",
        "llama",
        sized(max_position_embeddings=96, **rope("longrope", **_LONGROPE)),
    ),
    Case(
        "llama_rope_longrope_long",
        "llama",
        sized(
            max_position_embeddings=96,
            **rope("longrope", factor=3.0, attention_factor=1.25, **_LONGROPE),
        ),
        lengths=(40, 25),
        prompt_length=26,
    ),
    Case("llama_act_gelu", "llama", sized(hidden_act="gelu")),
    Case("llama_act_gelu_tanh", "llama", sized(hidden_act="gelu_pytorch_tanh")),
    Case("llama_act_relu", "llama", sized(hidden_act="relu")),
    Case("llama_act_relu2", "llama", sized(hidden_act="relu2")),
    Case("llama_act_quick_gelu", "llama", sized(hidden_act="quick_gelu")),
    Case("llama_bfloat16", "llama", sized(), dtype="bfloat16"),
    Case("llama_float16", "llama", sized(), dtype="float16"),
    Case("llama_sharded", "llama", sized(), shards=3),
    Case(
        "llama_hub",
        "llama",
        sized(
            rms_norm_eps=1e-5,
            rope_theta=500000.0,
            rope_scaling={
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            max_position_embeddings=2048,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=[2, 3],
            hidden_act="silu",
            initializer_range=0.02,
            mlp_bias=False,
            pretraining_tp=1,
            tie_word_embeddings=True,
            use_cache=True,
        ),
        hub_style=True,
    ),
    Case(
        "llama_hub_type_key",
        "llama",
        sized(rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.5}),
        hub_style=True,
    ),
]
