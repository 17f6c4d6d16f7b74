"""What a checkpoint's directory holds besides the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.models.weights.files import read_json
from ferrum_jax.tokenizer import has_tokenizer, load_tokenizer
from ferrum_jax.types import ConfigError

DEMO_MODEL = Path(__file__).parent.parent / "demo_model"
"""The model inside the package."""


def tokenizer_of(directory: Path) -> Tokenizer | None:
    """The directory's tokenizer; None where it has no file of one."""
    return load_tokenizer(directory) if has_tokenizer(directory) else None


def eos_token_ids(directory: Path, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """What ends a text: generation_config.json's ids, else config.json's, else the tokenizer's.

    A multimodal config.json may name them in its text_config alone.
    """
    for name in ("generation_config.json", "config.json"):
        if (directory / name).exists():
            record = read_json(directory, name)
            for part in (record, record.get("text_config")):
                value = part.get("eos_token_id") if isinstance(part, dict) else None
                if value is not None:
                    return _ids(value, directory / name)
    return () if tokenizer is None else tokenizer.eos_token_ids


def _ids(value: Any, path: Path) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise ConfigError(f"{path}: eos_token_id holds {one!r}; token ids are integers from 0")
    return tuple(dict.fromkeys(values))
