"""vocab.json with merges.txt, and vocab.txt: vocabularies and nothing else.

How a text is cut before, and which tokens are special, follows from `tokenizer_class` in
tokenizer_config.json; a class that is not in the tables here is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ferrum_jax.tokenizer.files import TokenizerFiles
from ferrum_jax.tokenizer.vocabulary import (
    LETTERS,
    ONE_DIGIT,
    Converted,
    add_ends,
    cut_bytes,
    damaged,
    read_utf8,
    tokenizer_class,
    unknown_class,
)

_END = "<|endoftext|>"
_GPT2 = {"bos_token": _END, "eos_token": _END, "unk_token": _END}
_QWEN2 = {"eos_token": _END, "unk_token": _END, "pad_token": _END}


@dataclass(frozen=True)
class ByteLevelProfile:
    """What a tokenizer class of vocab.json and merges.txt knows besides them."""

    named: Mapping[str, str]
    """Special tokens, unless files name others."""
    pattern: str | None = None
    """None: GPT-2's own."""
    nfc: bool = False


BPE_CLASSES = {
    "GPT2Tokenizer": ByteLevelProfile(_GPT2),
    "CodeGenTokenizer": ByteLevelProfile(_GPT2),
    "GPTNeoXTokenizer": ByteLevelProfile({**_GPT2, "pad_token": "<|padding|>"}, nfc=True),
    "Qwen2Tokenizer": ByteLevelProfile(_QWEN2, ONE_DIGIT, nfc=True),
}
BPE_MODEL_TYPES = {
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "opt", "phi", "starcoder2"), "GPT2Tokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
}
"""The tokenizer class of a model type whose directory has no tokenizer_config.json."""
WORD_PIECE_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
_BERT = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}

_UTF8_BYTES = [*range(0xC0), *range(0xC2, 0xF5)]
"""The bytes that occur in texts."""
MAX_UNMADE = 16
"""The most special tokens that a small vocabulary may hold besides what merges make."""


def from_vocab_and_merges(directory: Path, files: TokenizerFiles) -> Converted:
    """A byte-level BPE of vocab.json and merges.txt.

    Raises:
        TokenizerError: a damaged file, or a tokenizer class that is not known.
    """
    path = directory / "vocab.json"
    name = tokenizer_class(files) or BPE_MODEL_TYPES.get(files.model_type or "")
    if name not in BPE_CLASSES:
        raise unknown_class(name, BPE_CLASSES, path, "convert it to a tokenizer.json")
    profile = BPE_CLASSES[name]
    vocab, merges = _vocab(path), _merges(directory / "merges.txt")
    _check_whole(vocab, merges, directory / "merges.txt")
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
    except Exception as error:  # the library raises bare Exception for every fault
        raise damaged(path, f"it does not fit merges.txt ({error})") from error
    spaced = files.config.get("add_prefix_space") is True
    cut_bytes(tokenizer, profile.pattern, add_prefix_space=spaced)
    if profile.nfc:
        tokenizer.normalizer = normalizers.NFC()
    files = replace(files, named={**profile.named, **files.named})
    add_ends(tokenizer, files, vocab)
    return tokenizer, files


def from_word_pieces(path: Path, files: TokenizerFiles) -> Converted:
    """A WordPiece tokenizer of vocab.txt, as BERT's.

    Raises:
        TokenizerError: a damaged file, or a tokenizer class that is not BERT's.
    """
    name = tokenizer_class(files)
    if name not in WORD_PIECE_CLASSES:
        raise unknown_class(name, WORD_PIECE_CLASSES, path, "convert it to a tokenizer.json")
    lines = _lines(path, "a WordPiece vocabulary")
    vocab = {line: number for number, line in enumerate(lines)}
    named = {**_BERT, **files.named}
    missing = [named[n] for n in ("unk_token", "cls_token", "sep_token") if named[n] not in vocab]
    if missing:
        raise damaged(path, f"it has no {missing[0]}")
    config = files.config
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=named["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars") is not False,
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case") is not False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    begin, end = (named[n] or "" for n in ("cls_token", "sep_token"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin}:0 $A:0 {end}:0",
        special_tokens=[(begin, vocab[begin]), (end, vocab[end])],
    )
    return tokenizer, replace(files, named=named)


def _vocab(path: Path) -> dict[str, int]:
    try:
        vocab = json.loads(read_utf8(path, "a JSON object of tokens and ids"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not valid JSON ({error})") from error
    if not isinstance(vocab, dict) or not vocab:
        raise damaged(path, "it is not an object of tokens and ids")
    missing = [byte for byte in _UTF8_BYTES if LETTERS[byte] not in vocab]
    if missing:
        raise damaged(path, f"there is no token for the byte 0x{missing[0]:02X}")
    if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in vocab.values()):
        raise damaged(path, "an id is no integer >= 0")
    return vocab


def _merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_lines(path, "a list of merges"), 1):
        if line.startswith("#version") or not line.strip():
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise damaged(path, f"line {number} is not two tokens with a space between them")
        merges.append((pair[0], pair[1]))
    return merges


def _lines(path: Path, what: str) -> list[str]:
    """Lines of a text, of which those at its end that are empty do not count."""
    return read_utf8(path, what).replace("\r\n", "\n").rstrip("\n").split("\n")


def _check_whole(vocab: Mapping[str, int], merges: list[tuple[str, str]], path: Path) -> None:
    """Refuse merges that do not make the vocabulary, as those of a file that was cut.

    Special tokens come from no merge either, so a few such tokens are usual.
    """
    made = {left + right for left, right in merges}
    unmade = sum(len(token) > 1 and token not in made for token in vocab)
    if unmade > max(MAX_UNMADE, len(vocab) // 100):
        raise damaged(path, f"{unmade} of the vocabulary's {len(vocab)} tokens come from no merge")
