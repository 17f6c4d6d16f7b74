"""A rounded model as a checkpoint directory."""

from __future__ import annotations

from pathlib import Path

from ferrum_jax.models.weights.hub import resolve_checkpoint
from ferrum_jax.models.weights.save_quantized import save_quantized as save
from ferrum_jax.runtime.directory import DEMO_MODEL
from ferrum_jax.runtime.llm import LLM


def save_quantized(llm: LLM, directory: str | Path, like: str | Path) -> Path:
    """Write a model with rounded weights in the format of compressed-tensors.

    `LLM.load(directory, engine=EngineConfig(quantization=kind))` takes the rounded weights over as
    they are; without `quantization` they become floats. vLLM and transformers read it too.

    Args:
        directory: made where it is missing.
        like: what the model was loaded from (a directory, a hub id or `"demo"`): its config.json,
            tokenizer and other small files are taken over.

    Returns:
        The path of the weights.

    Raises:
        UnsupportedError: nothing is rounded, or a rounded matrix is part of a tensor that is none.
        WeightError: `directory` is `like`.
    """
    source = DEMO_MODEL if like == "demo" else resolve_checkpoint(like)
    return save(llm.config, llm.params, source, Path(directory))
