"""What a checkpoint's directory holds besides the weights."""

from __future__ import annotations

from pathlib import Path

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.models.weights.files import read_json
from ferrum_jax.tokenizer import load_tokenizer

DEMO_MODEL = Path(__file__).parent.parent / "demo_model"
"""The model inside the package."""


def tokenizer_of(directory: Path) -> Tokenizer | None:
    """The directory's tokenizer; None where it has no file of one."""
    names = ("tokenizer.json", "tokenizer.model")
    if not any((directory / name).exists() for name in names):
        return None
    return load_tokenizer(directory)


def eos_token_ids(directory: Path, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """What ends a text: generation_config.json's ids, else config.json's, else the tokenizer's."""
    for name in ("generation_config.json", "config.json"):
        if (directory / name).exists():
            value = read_json(directory, name).get("eos_token_id")
            if value is not None:
                return tuple(value) if isinstance(value, list) else (value,)
    return () if tokenizer is None else tokenizer.eos_token_ids
