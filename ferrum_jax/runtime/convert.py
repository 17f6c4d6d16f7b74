"""From a GGUF file to a checkpoint directory."""

from __future__ import annotations

from pathlib import Path

from ferrum_jax.models.weights.gguf import GgufFile, config_of, write_checkpoint
from ferrum_jax.tokenizer.gguf import write_tokenizer
from ferrum_jax.types import WeightError


def from_gguf(
    file: str | Path,
    directory: str | Path,
    dtype: str = "float32",
    *,
    tokenizer: bool = True,
    progress: bool = False,
) -> Path:
    """Write a GGUF file as a Hugging Face directory, for `LLM.load` and everything else.

    llama, qwen2 and qwen3 without experts, whatever their weights are quantised as: they become
    floats, and the directory is as large as floats are. It needs the `gguf` package.

    Args:
        directory: made where it is missing; it must not hold a model.
        dtype: float32 keeps the exact values; float16 or bfloat16 take half.
        tokenizer: False leaves it out.
        progress: show a bar by tensors.

    Returns:
        The directory.

    Raises:
        UnsupportedError: an architecture, tokenizer or tensor type that is not read.
        WeightError, ConfigError, TokenizerError: the file is damaged; the directory has a model.
    """
    read, directory = GgufFile(file), Path(directory)
    config_of(read)  # What is refused is refused before anything is written.
    if (directory / "config.json").exists():
        raise WeightError(f"{directory} holds a model already; name another directory")
    directory.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        write_tokenizer(read.value, directory, str(read.path))
    write_checkpoint(read, directory, dtype, progress=progress)
    return directory
