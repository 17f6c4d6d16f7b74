"""From a Hugging Face directory to a tokenizer."""

from __future__ import annotations

from pathlib import Path

from ferrum_jax.interfaces.tokenizer import Tokenizer
from ferrum_jax.tokenizer.files import read_bytes, read_files
from ferrum_jax.tokenizer.huggingface import HuggingFaceTokenizer
from ferrum_jax.tokenizer.sentence_piece import SentencePieceTokenizer
from ferrum_jax.types.errors import TokenizerError


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Read a directory's tokenizer.json or, where there is none, its tokenizer.model.

    Special tokens, EOS ids and chat templates come from the files beside it. Raises TokenizerError
    for a file that is missing, cut, empty or of another format; a damaged tokenizer.json is an
    error even where a tokenizer.model stands beside it.
    """
    directory = Path(directory)
    json_path, model_path = directory / "tokenizer.json", directory / "tokenizer.model"
    if json_path.exists():
        data = read_bytes(json_path, "a tokenizer.json of the `tokenizers` library")
        return HuggingFaceTokenizer(_text(data, json_path), read_files(directory), str(json_path))
    if model_path.exists():
        data = read_bytes(model_path, "a sentencepiece model")
        return SentencePieceTokenizer(data, read_files(directory), str(model_path))
    raise TokenizerError(
        f"{directory} has neither tokenizer.json nor tokenizer.model; download one of them "
        "into it, or pass prompts as token ids, which need no tokenizer"
    )


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 ({error}); download it again") from error
