"""From a Hugging Face directory to a tokenizer."""

from __future__ import annotations

from pathlib import Path

from ferrum_jax.interfaces.tokenizer import Tokenizer
from ferrum_jax.tokenizer.convert import from_vocab_and_merges, from_word_pieces
from ferrum_jax.tokenizer.files import read_bytes, read_files
from ferrum_jax.tokenizer.huggingface import HuggingFaceTokenizer
from ferrum_jax.tokenizer.ranks import from_ranks, from_tekken, is_rank_file
from ferrum_jax.tokenizer.sentence_piece import SentencePieceTokenizer
from ferrum_jax.types.errors import TokenizerError

_SINGLE = ("tokenizer.json", "tekken.json", "vocab.txt")
_MODELS = ("tokenizer.model", "spiece.model", "tiktoken.model")


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Read a directory's tokenizer, from the first of these that is there.

    tokenizer.json; tokenizer.model, spiece.model or tiktoken.model (sentencepiece or tiktoken's
    ranks, as their bytes say); a .tiktoken file; tekken.json; vocab.json with merges.txt;
    vocab.txt. Special tokens, EOS ids and chat templates come from the files beside it.

    Raises:
        TokenizerError: a file that is missing, cut, empty or of another format. A damaged
            tokenizer.json is an error even where a tokenizer.model stands beside it.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    if path.exists():
        data = read_bytes(path, "a tokenizer.json of the `tokenizers` library")
        return HuggingFaceTokenizer(_text(data, path), read_files(directory), str(path))
    path = _model_file(directory)
    if path is not None:
        return _of_model(path)
    path = directory / "tekken.json"
    if path.exists():
        return HuggingFaceTokenizer(*from_tekken(path, read_files(directory)), str(path))
    if (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
        converted = from_vocab_and_merges(directory, read_files(directory))
        return HuggingFaceTokenizer(*converted, str(directory / "vocab.json"))
    path = directory / "vocab.txt"
    if path.exists():
        return HuggingFaceTokenizer(*from_word_pieces(path, read_files(directory)), str(path))
    raise TokenizerError(
        f"{directory} has neither tokenizer.json nor tokenizer.model, nor another tokenizer file; "
        "download one of them into it, or pass prompts as token ids, which need no tokenizer"
    )


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has a file that `load_tokenizer` reads."""
    pair = all((directory / name).exists() for name in ("vocab.json", "merges.txt"))
    single = any((directory / name).exists() for name in _SINGLE)
    return pair or single or _model_file(directory) is not None


def _model_file(directory: Path) -> Path | None:
    """A sentencepiece model or a rank file."""
    for name in _MODELS:
        if (directory / name).exists():
            return directory / name
    found = sorted(directory.glob("*.tiktoken"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise TokenizerError(f"{directory} has several rank files ({names}); keep one of them")
    return found[0] if found else None


def _of_model(path: Path) -> Tokenizer:
    data = read_bytes(path, "a sentencepiece model or a rank file")
    files = read_files(path.parent)
    if path.name.startswith("tiktoken") or path.suffix == ".tiktoken" or is_rank_file(data):
        return HuggingFaceTokenizer(*from_ranks(data, files, path), str(path))
    return SentencePieceTokenizer(data, files, str(path))


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 ({error}); download it again") from error
