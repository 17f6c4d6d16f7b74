"""The sampling that a checkpoint recommends: its generation_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ferrum_jax.models.weights.files import read_json
from ferrum_jax.types import ConfigError, FerrumError, SamplingParams

# Keys that are applied, by the field of `SamplingParams` that they set.
_APPLIED = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "stop_strings": "stop",
}
_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
# Keys that say nothing about the tokens: ids that are read elsewhere, caches, outputs, versions.
_ELSEWHERE = frozenset(
    {
        "bos_token_id",
        "cache_implementation",
        "decoder_start_token_id",
        "do_sample",
        "eos_token_id",
        "is_assistant",
        "pad_token_id",
        "return_dict_in_generate",
        "transformers_version",
        "use_cache",
    }
)
_NEUTRAL = (None, False, 0, 1, [], {})


@dataclass(frozen=True)
class SamplingDefaults:
    """What requests without `SamplingParams` of their own get, and where it comes from."""

    params: SamplingParams = field(default_factory=SamplingParams)
    given: Mapping[str, Any] = field(default_factory=dict)
    """The fields of `params` that the checkpoint sets."""
    not_applied: Mapping[str, Any] = field(default_factory=dict)
    """What else generation_config.json asks for, which is not done."""

    def __str__(self) -> str:
        parts = [f"{name} {value}" for name, value in self.given.items()] or ["none of its own"]
        others = ", ".join(f"{name} {value}" for name, value in self.not_applied.items())
        return ", ".join(parts) + (f"; not applied: {others}" if others else "")


def sampling_defaults(directory: Path) -> SamplingDefaults:
    """The sampling that a directory's generation_config.json recommends.

    Values that it has are taken as they stand, `do_sample: false` as temperature 0; the defaults
    that transformers puts in for absent keys (top_k 50) are not.

    Raises:
        ConfigError: the file is damaged, or holds a value out of its range.
    """
    name = "generation_config.json"
    if not (directory / name).exists():
        return SamplingDefaults()
    record = read_json(directory, name)
    stated = {key: value for key, value in record.items() if value is not None}
    given = {field: stated[key] for key, field in _APPLIED.items() if key in stated}
    if stated.get("do_sample") is False:
        given = {key: value for key, value in given.items() if key not in _OF_SAMPLING}
        given = {"temperature": 0.0, **given}
    others = {
        key: value
        for key, value in stated.items()
        if key not in _APPLIED and not _says_nothing(key, value)
    }
    try:
        return SamplingDefaults(SamplingParams(**given), given, others)
    except FerrumError as error:
        raise ConfigError(f"{directory / name}: {error}; mend the value or remove it") from error


def _says_nothing(key: str, value: Any) -> bool:
    return key in _ELSEWHERE or key.startswith(("_", "output_")) or value in _NEUTRAL
