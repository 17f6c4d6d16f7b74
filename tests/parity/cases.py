"""The table of parity cases: one small model per family and per option of its config.

Each case names a `model_type` and the config keys that it sets; everything else is the default of
transformers. The sizes are tiny, the sequences longer than every sliding window, and the values
chosen so that an option that is ignored shows: a large `rms_norm_eps`, soft caps close to the
scores, heads whose size is not hidden_size / heads.

Needs no package besides the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One model to compare.

    lengths: the lengths of the two sequences whose logits are stored.
    prompt_length, new_tokens: the greedy continuation.
    dtype: how the checkpoint stores its weights; the arithmetic is float32 in every case.
    shards: into how many files a test should split the checkpoint.
    norm_low: where the norm weights start, see `make_tensor`; -0.5 where the norm is 1 + weight.
    hub_style: config.json holds `config` as written here, with the key names that checkpoints on
        the hub have (`rope_theta`, `rope_scaling`, `torch_dtype`), rather than what
        transformers 5 saves.
    """

    name: str
    model_type: str
    config: dict[str, Any]
    lengths: tuple[int, int] = (40, 17)
    prompt_length: int = 10
    new_tokens: int = 12
    dtype: str = "float32"
    shards: int = 1
    norm_low: float = 0.5
    hub_style: bool = False


def _sized(**changes: Any) -> dict[str, Any]:
    """The common sizes, with changes."""
    return {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-3,
    } | changes


def _rope(rope_type: str, theta: float = 10000.0, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": theta, **parameters}}


def _gemma(**changes: Any) -> dict[str, Any]:
    """Gemma sizes: sqrt(hidden_size) is irrational and the query scale is not head_dim ** -0.5."""
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "query_pre_attn_scalar": 10,
        "sliding_window": 8,
    }
    return _sized(**(sizes | changes))


def _gemma_case(name: str, model_type: str, config: dict[str, Any], **options: Any) -> Case:
    return Case(name, model_type, config, norm_low=-0.5, **options)


def _moe(**changes: Any) -> dict[str, Any]:
    """Qwen3-MoE sizes: six experts of 40, two of them per token."""
    sizes = {"moe_intermediate_size": 40, "num_experts": 6, "num_experts_per_tok": 2}
    return _sized(**(sizes | changes))


def _mixtral(**changes: Any) -> dict[str, Any]:
    """Mixtral sizes: four experts of 56, two of them per token."""
    sizes = {"intermediate_size": 56, "num_local_experts": 4, "num_experts_per_tok": 2}
    return _sized(**(sizes | changes))


_SHORT_FACTOR = [1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.8, 2.0]
_LONG_FACTOR = [1.0, 1.3, 1.9, 2.6, 3.4, 4.1, 4.8, 5.5]
_LONGROPE = {
    "short_factor": _SHORT_FACTOR,
    "long_factor": _LONG_FACTOR,
    "original_max_position_embeddings": 24,
}

_LLAMA = [
    Case("llama", "llama", _sized()),
    Case("llama_bias", "llama", _sized(attention_bias=True, mlp_bias=True)),
    Case("llama_tied", "llama", _sized(tie_word_embeddings=True)),
    Case("llama_head_dim", "llama", _sized(head_dim=24)),
    Case("llama_mha", "llama", _sized(num_key_value_heads=4)),
    Case("llama_mqa", "llama", _sized(num_key_value_heads=1)),
    Case("llama_wide", "llama", _sized(hidden_size=96, vocab_size=160, num_hidden_layers=2)),
    Case("llama_rope_theta", "llama", _sized(**_rope("default", theta=500.0))),
    Case("llama_rope_linear", "llama", _sized(**_rope("linear", factor=4.0))),
    # The first sequence is longer than max_position_embeddings, the second and the greedy run
    # stay below it.
    Case(
        "llama_rope_dynamic",
        "llama",
        _sized(max_position_embeddings=32, **_rope("dynamic", factor=3.0)),
    ),
    # Here every forward is beyond it, and so every greedy step has frequencies of its own.
    Case(
        "llama_rope_dynamic_beyond",
        "llama",
        _sized(max_position_embeddings=16, **_rope("dynamic", factor=3.0)),
        prompt_length=20,
    ),
    Case(
        "llama_rope_yarn",
        "llama",
        _sized(
            max_position_embeddings=4096,
            **_rope("yarn", factor=4.0, original_max_position_embeddings=1024),
        ),
    ),
    Case(
        "llama_rope_yarn_attention_factor",
        "llama",
        _sized(
            max_position_embeddings=4096,
            **_rope(
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
        _sized(
            max_position_embeddings=2048,
            **_rope(
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
        _sized(
            head_dim=24,
            max_position_embeddings=2048,
            **_rope(
                "yarn", 150000.0, factor=32.0, original_max_position_embeddings=64, truncate=False
            ),
        ),
    ),
    Case(
        "llama_rope_llama3",
        "llama",
        _sized(
            max_position_embeddings=512,
            **_rope(
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
        _sized(max_position_embeddings=96, **_rope("longrope", **_LONGROPE)),
    ),
    Case(
        "llama_rope_longrope_long",
        "llama",
        _sized(
            max_position_embeddings=96,
            **_rope("longrope", factor=3.0, attention_factor=1.25, **_LONGROPE),
        ),
        lengths=(40, 25),
        prompt_length=26,
    ),
    Case("llama_act_gelu", "llama", _sized(hidden_act="gelu")),
    Case("llama_act_gelu_tanh", "llama", _sized(hidden_act="gelu_pytorch_tanh")),
    Case("llama_act_relu", "llama", _sized(hidden_act="relu")),
    Case("llama_act_relu2", "llama", _sized(hidden_act="relu2")),
    Case("llama_act_quick_gelu", "llama", _sized(hidden_act="quick_gelu")),
    Case("llama_bfloat16", "llama", _sized(), dtype="bfloat16"),
    Case("llama_float16", "llama", _sized(), dtype="float16"),
    Case("llama_sharded", "llama", _sized(), shards=3),
    Case(
        "llama_hub",
        "llama",
        _sized(
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
        _sized(rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.5}),
        hub_style=True,
    ),
]

_MISTRAL = [
    Case("mistral", "mistral", _sized(sliding_window=None)),
    Case("mistral_window", "mistral", _sized(sliding_window=8, head_dim=24)),
    Case(
        "mistral_hub",
        "mistral",
        _sized(
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=12,
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
        dtype="bfloat16",
    ),
]

_QWEN2 = [
    Case("qwen2", "qwen2", _sized()),
    # Windows switched off: sliding_window must be ignored.
    Case("qwen2_window_off", "qwen2", _sized(use_sliding_window=False, sliding_window=8)),
    Case(
        "qwen2_window",
        "qwen2",
        _sized(num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2),
    ),
    Case(
        "qwen2_layer_types",
        "qwen2",
        _sized(
            use_sliding_window=True,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ),
    Case(
        "qwen2_hub",
        "qwen2",
        _sized(
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=1,
            sliding_window=8,
            tie_word_embeddings=True,
            use_cache=True,
            use_sliding_window=True,
        ),
        hub_style=True,
    ),
]

_QWEN3 = [
    Case("qwen3", "qwen3", _sized(head_dim=24)),
    Case("qwen3_bias", "qwen3", _sized(head_dim=16, attention_bias=True)),
    Case(
        "qwen3_window",
        "qwen3",
        _sized(
            head_dim=16,
            num_hidden_layers=4,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
        ),
    ),
    Case(
        "qwen3_hub",
        "qwen3",
        _sized(
            rms_norm_eps=1e-6,
            rope_theta=1000000,
            rope_scaling=None,
            head_dim=32,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=3,
            sliding_window=None,
            tie_word_embeddings=True,
            use_cache=True,
            use_sliding_window=False,
        ),
        hub_style=True,
    ),
]

_QWEN3_MOE = [
    Case("qwen3_moe", "qwen3_moe", _moe(norm_topk_prob=False)),
    Case("qwen3_moe_norm_topk", "qwen3_moe", _moe(norm_topk_prob=True, head_dim=24)),
    # Layers 1 and 3 would be sparse by the step; layer 3 is dense by name.
    Case(
        "qwen3_moe_dense_layers",
        "qwen3_moe",
        _moe(num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3], norm_topk_prob=True),
    ),
    # One window on every layer: this family has no layer_types and ignores max_window_layers.
    Case(
        "qwen3_moe_window",
        "qwen3_moe",
        _moe(
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
            attention_bias=True,
            num_experts_per_tok=3,
            num_hidden_layers=2,
        ),
    ),
    Case(
        "qwen3_moe_hub",
        "qwen3_moe",
        _moe(
            rms_norm_eps=1e-6,
            rope_theta=1000000.0,
            rope_scaling=None,
            head_dim=32,
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=1,
            decoder_sparse_step=1,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=3,
            mlp_only_layers=[],
            norm_topk_prob=True,
            output_router_logits=False,
            router_aux_loss_coef=0.001,
            sliding_window=None,
            tie_word_embeddings=False,
            use_cache=True,
            use_sliding_window=False,
        ),
        hub_style=True,
        shards=2,
    ),
]

_MIXTRAL = [
    Case("mixtral", "mixtral", _mixtral()),
    Case("mixtral_window", "mixtral", _mixtral(sliding_window=8, head_dim=24)),
    Case(
        "mixtral_hub",
        "mixtral",
        _mixtral(
            rms_norm_eps=1e-5,
            rope_theta=1000000.0,
            sliding_window=None,
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            num_experts_per_tok=1,
            output_router_logits=False,
            router_aux_loss_coef=0.02,
            tie_word_embeddings=False,
            use_cache=True,
        ),
        hub_style=True,
    ),
]

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

CASES: dict[str, Case] = {
    case.name: case
    for family in (_LLAMA, _MISTRAL, _QWEN2, _QWEN3, _QWEN3_MOE, _MIXTRAL, _GEMMA2, _GEMMA3)
    for case in family
}
