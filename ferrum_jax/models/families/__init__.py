"""The model families: from a `config.json` to a `ModelConfig`, and a table of weight names."""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import Any

from ferrum_jax.models.families import (
    gemma2,
    gemma3_text,
    llama,
    mistral,
    mixtral,
    qwen2,
    qwen3,
    qwen3_moe,
)
from ferrum_jax.models.families.reader import ConfigReader
from ferrum_jax.types import ConfigError, ModelConfig, UnsupportedError

FAMILIES: dict[str, ModuleType] = {
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
}
"""By `model_type`: modules with `read(reader) -> ModelConfig` and `names(config) -> table`."""


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
    """A `ModelConfig` from the contents of a `config.json`.

    Raises:
        ConfigError: a missing, unknown or contradictory key.
        UnsupportedError: a model type, rope kind, activation or option that is not known.
    """
    family = family_of(raw.get("model_type"), where)
    reader = ConfigReader(raw, where)
    config = family.read(reader)
    reader.finish()
    return config
