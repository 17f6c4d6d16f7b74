"""What stands around the config of a text model in published files: a wrapper for images, another
name of the type, a class that is no language model."""

from __future__ import annotations

import re
from typing import Any

from ferrum_jax.types import ConfigError, UnsupportedError

WRAPPERS = frozenset(
    [
        "aya_vision",
        "cohere2_vision",
        "gemma3",
        "gemma4",
        "idefics3",
        "internvl",
        "kimi_vl",
        "lfm2-vl",
        "lfm2_vl",
        "llama4",
        "llava",
        "llava_next",
        "llava_onevision",
        "mistral3",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_5",
        "qwen3_vl",
        "smolvlm",
    ]
)
"""Types whose `text_config` is a decoder that treats text as it would without images. (PaliGemma,
for one, is not: its prompts attend in both directions.)"""

ALIASES = {
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "kimi_k2": "deepseek_v3",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
}
"""Types by other names, for text alone."""

NESTED_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "vocab_size": 262_208,
    },
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "vocab_size": 32_000,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "vocab_size": 32_000,
    },
}
"""Sizes that a nested config leaves out where they are those of transformers' class."""

VISION_KEYS = (
    "image_token_id",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
)
"""Beside the text's own keys in files of Qwen 2 VL, which are flat."""

_FALCON_KEYS = {
    "n_head": "num_attention_heads",
    "n_head_kv": "num_kv_heads",
    "n_layer": "num_hidden_layers",
}
_OTHER_HEAD = re.compile(
    r"For(Sequence|Token|Audio|Image)Classification|ForQuestionAnswering|ForMultipleChoice"
    r"|DoubleHeadsModel|Reward|ForEmbedding|ForTextEncoding"
)


def text_part(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """The config of the text model, as if it stood alone and by the name of its family.

    Raises:
        ConfigError: a text config that is no object.
        UnsupportedError: a wrapper whose text part is not known to be a plain decoder; weights of
            a classifier or another model without logits of tokens.
    """
    _refuse_other_heads(raw, where)
    if raw.get("text_config") is not None:
        return _renamed(_nested(raw, where))
    if raw.get("model_type") in WRAPPERS & ALIASES.keys():
        raw = {key: value for key, value in raw.items() if key not in VISION_KEYS}
    return _renamed(raw)


def is_wrapper(raw: dict[str, Any]) -> bool:
    """Whether a `config.json` describes more than a text model."""
    return raw.get("text_config") is not None or raw.get("vision_config") is not None


def _nested(raw: dict[str, Any], where: str) -> dict[str, Any]:
    outer, text = raw.get("model_type"), raw["text_config"]
    if not isinstance(text, dict):
        raise ConfigError(f"{where}: text_config is {text!r}; it must be an object")
    if outer not in WRAPPERS:
        raise UnsupportedError(
            f"{where}: model_type {outer!r} has a text_config and is not one of "
            f"{', '.join(sorted(WRAPPERS))}, whose text model can be run by itself"
        )
    kind = text.get("model_type", f"{outer}_text")
    merged = {**NESTED_DEFAULTS.get(kind, {}), **text, "model_type": kind}
    # Newer files say these of the whole; the text's own word, where there is one, is closer.
    for key in ("quantization_config", "tie_word_embeddings"):
        if key in raw:
            merged.setdefault(key, raw[key])
    return merged


def _renamed(raw: dict[str, Any]) -> dict[str, Any]:
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in ALIASES:
        return raw
    family = ALIASES[kind]
    if family == "falcon":
        raw = {_FALCON_KEYS.get(key, key): value for key, value in raw.items()}
        raw.setdefault("new_decoder_architecture", kind == "RefinedWeb")
    if "_vl" in kind:
        raw = _without_sections(raw)
    return {**raw, "model_type": family}


def _without_sections(raw: dict[str, Any]) -> dict[str, Any]:
    """The sections of a rope for images dropped: text has one position in all of them."""
    result = dict(raw)
    for key in ("rope_scaling", "rope_parameters"):
        rope = raw.get(key)
        if isinstance(rope, dict):
            kept = {
                k: v for k, v in rope.items() if k not in ("mrope_interleaved", "mrope_section")
            }
            result[key] = {k: "default" if v == "mrope" else v for k, v in kept.items()}
    return result


def _refuse_other_heads(raw: dict[str, Any], where: str) -> None:
    named = raw.get("architectures") or []
    for name in named if isinstance(named, list) else [named]:
        if _OTHER_HEAD.search(str(name)):
            raise UnsupportedError(
                f"{where}: architectures names {name}, which gives no logits of tokens; give the "
                "checkpoint of a language model (...ForCausalLM) or of its base model"
            )
