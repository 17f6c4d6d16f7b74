"""The model families: from a `config.json` to a `ModelConfig`, and a table of weight names."""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import Any

from ferrum_jax.models.families import (
    apertus,
    arcee,
    bamba,
    bloom,
    cohere2,
    deepseek_v2,
    deepseek_v3,
    dots1,
    ernie4_5,
    ernie4_5_moe,
    exaone4,
    falcon,
    falcon_h1,
    gemma,
    gemma2,
    gemma3_text,
    gemma4_text,
    glm4,
    glm4_moe,
    gpt2,
    gpt_neox,
    gpt_oss,
    granite,
    granitemoe,
    granitemoehybrid,
    hunyuan_v1_dense,
    kimi_linear,
    lfm2,
    llama,
    llama4_text,
    mamba,
    mamba2,
    minimax,
    minimax_m2,
    ministral3,
    mistral,
    mixtral,
    nemotron,
    nemotron_h,
    olmo,
    olmo2,
    olmo3,
    olmoe,
    opt,
    phi,
    phi3,
    phimoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5_text,
    qwen3_moe,
    qwen3_next,
    seed_oss,
    smollm3,
    stablelm,
    starcoder2,
)
from ferrum_jax.models.families.published import text_part
from ferrum_jax.models.families.quantization import read_quantization
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.types import ConfigError, ModelConfig, UnsupportedError

FAMILIES: dict[str, ModuleType] = {
    "apertus": apertus,
    "arcee": arcee,
    "bamba": bamba,
    "bloom": bloom,
    "cohere2": cohere2,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "dots1": dots1,
    "ernie4_5": ernie4_5,
    "ernie4_5_moe": ernie4_5_moe,
    "exaone4": exaone4,
    "falcon": falcon,
    "falcon_h1": falcon_h1,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "gemma4_text": gemma4_text,
    "glm4": glm4,
    "glm4_moe": glm4_moe,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "gpt_oss": gpt_oss,
    "granite": granite,
    "granitemoe": granitemoe,
    "granitemoehybrid": granitemoehybrid,
    "hunyuan_v1_dense": hunyuan_v1_dense,
    "kimi_linear": kimi_linear,
    "lfm2": lfm2,
    "llama": llama,
    "llama4_text": llama4_text,
    "mamba": mamba,
    "mamba2": mamba2,
    "minimax": minimax,
    "minimax_m2": minimax_m2,
    "ministral3": ministral3,
    "mistral": mistral,
    "mixtral": mixtral,
    "nemotron": nemotron,
    "nemotron_h": nemotron_h,
    "olmo": olmo,
    "olmo2": olmo2,
    "olmo3": olmo3,
    "olmoe": olmoe,
    "opt": opt,
    "phi": phi,
    "phi3": phi3,
    "phimoe": phimoe,
    "qwen2": qwen2,
    "qwen2_moe": qwen2_moe,
    "qwen3": qwen3,
    "qwen3_5_text": qwen3_5_text,
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
    "seed_oss": seed_oss,
    "smollm3": smollm3,
    "stablelm": stablelm,
    "starcoder2": starcoder2,
}
"""By `model_type`: modules with `read(reader) -> ModelConfig` and `names(config) -> table`.

One whose published files hold tensors without a use has `unused(config) -> names` too.
"""


def family_of(model_type: Any, where: str) -> ModuleType:
    """The module of a model type.

    Raises:
        ConfigError: there is none in the file.
        UnsupportedError: it is not known; the closest known one is named.
    """
    if not isinstance(model_type, str):
        raise ConfigError(f"{where} has no model_type; it is {model_type!r}")
    if model_type not in FAMILIES:
        close = difflib.get_close_matches(model_type, FAMILIES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UnsupportedError(
            f"{where}: model_type {model_type!r} is not supported{hint}; "
            f"supported are {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def read_config(raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """A `ModelConfig` from the contents of a `config.json`; of a multimodal one, its text model.

    Raises:
        ConfigError: a missing, unknown or contradictory key.
        UnsupportedError: a model type, rope kind, activation, option or way of quantising that is
            not known.
    """
    raw = text_part(raw, where)
    family = family_of(raw.get("model_type"), where)
    read_quantization(raw, where)
    reader = ConfigReader(raw, where)
    config = family.read(reader)
    reader.finish()
    return config
