"""Rank files: tiktoken's base64 lines, and Mistral's tekken.json.

A token's rank is when it is merged. tiktoken's files have nothing else in them: how a text is cut
before follows from `tokenizer_class` in tokenizer_config.json, or from a `pat_str` there; a class
that is not in the table here is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import tokenizers
from tokenizers import models, processors

from ferrum_jax.tokenizer.files import AddedToken, TokenizerFiles
from ferrum_jax.tokenizer.vocabulary import (
    ONE_DIGIT,
    Converted,
    add_ends,
    cut_bytes,
    damaged,
    read_utf8,
    spell,
    tokenizer_class,
    unknown_class,
)
from ferrum_jax.types.errors import TokenizerError

_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
THREE_DIGITS = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
)
"""GLM-4's, which is that of cl100k_base: digits by threes."""
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_HAN_APART = r"[^\r\n\p{L}\p{N}]?[%s&&[^\p{Han}]]%s[%s&&[^\p{Han}]]%s(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
HAN_APART = "|".join(
    (
        r"[\p{Han}]+",
        _HAN_APART % (_UPPER, "*", _LOWER, "+"),
        _HAN_APART % (_UPPER, "+", _LOWER, "*"),
        r"\p{N}{1,3}",
        _REST,
    )
)
"""Kimi's: runs of Han characters apart from other letters, which split where case rises."""


@dataclass(frozen=True)
class RankProfile:
    """What a tokenizer class of rank files knows besides its ranks."""

    pattern: str
    specials: tuple[str, ...] = ()
    """Special tokens that no file lists, from id `first_special` on."""
    first_special: int = 0
    reserved: int = 0
    """Ids behind the ranks that are special tokens, listed or not."""
    prefix: tuple[str, ...] = ()
    """Tokens that begin every text."""
    named: Mapping[str, str] = field(default_factory=dict)


RANK_PROFILES = {
    "QWenTokenizer": RankProfile(
        ONE_DIGIT,
        specials=(
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            *(f"<|extra_{i}|>" for i in range(205)),
        ),
        first_special=151643,
        named={"eos_token": "<|endoftext|>"},
    ),
    "TikTokenTokenizer": RankProfile(HAN_APART, reserved=256),
    "ChatGLM4Tokenizer": RankProfile(THREE_DIGITS, prefix=("[gMASK]", "<sop>")),
}

_TEKKEN_NAMES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def is_rank_file(data: bytes) -> bool:
    """Whether bytes begin as tiktoken's files do; some are called tokenizer.model."""
    return _RANK_LINE.match(data) is not None


def from_ranks(data: bytes, files: TokenizerFiles, path: Path) -> Converted:
    """A tokenizer of tiktoken's ranks.

    Raises:
        TokenizerError: a damaged file, or a tokenizer class whose pattern is not known.
    """
    ranks = _ranks(data, path)
    profile = _rank_profile(files, path)
    added = _rank_specials(files, profile, len(ranks), path)
    tokenizer = _tokenizer(ranks, added, profile.pattern, path)
    if profile.prefix:
        ids = {token.content: token_id for token_id, token in added.items()}
        missing = [text for text in profile.prefix if text not in ids]
        if missing:
            raise damaged(path, f"tokenizer_config.json does not list {missing[0]}")
        texts = " ".join(f"{text}:0" for text in profile.prefix)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{texts} $A:0", special_tokens=[(text, ids[text]) for text in profile.prefix]
        )
    return tokenizer, replace(files, added=added, named={**profile.named, **files.named})


def from_tekken(path: Path, files: TokenizerFiles) -> Converted:
    """A tokenizer of Mistral's tekken.json, which has its pattern and special tokens in it.

    The special tokens have the first ids. Texts begin with BOS unless tokenizer_config.json sets
    `add_bos_token` to false.

    Raises:
        TokenizerError: a damaged file, or one without special tokens, of the first version.
    """
    try:
        record = json.loads(read_utf8(path, "Mistral's tekken.json"))
        config, specials = record["config"], record.get("special_tokens")
        pattern, size = str(config["pattern"]), config.get("default_vocab_size")
        if specials is None:
            raise damaged(path, "it lists no special tokens, as files of the first version")
        first = int(config.get("default_num_special_tokens", len(specials)))
        names = {int(entry["rank"]): str(entry["token_str"]) for entry in specials}
        entries = record["vocab"][: None if size is None else int(size) - first]
        tokens = [base64.b64decode(entry["token_bytes"], validate=True) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"it is no tekken.json ({type(error).__name__}: {error})") from error
    if not set(names) <= set(range(first)) or len(set(tokens)) < len(tokens):
        raise damaged(path, "it repeats a token, or a special token lies outside its range")
    if size is not None and len(tokens) + first != int(size):
        raise damaged(path, f"it has {len(tokens)} tokens besides {first} special ones, not {size}")
    ranks = {token: first + i for i, token in enumerate(tokens)}
    _check_bytes(ranks, path)
    added = {
        i: AddedToken(names.get(i, f"<SPECIAL_{i}>"), special=True, normalized=False)
        for i in range(first)
    }
    usual = {f"{n}_token": text for n, text in _TEKKEN_NAMES.items() if text in names.values()}
    files = replace(files, added=added | dict(files.added), named={**usual, **files.named})
    if "add_bos_token" not in files.config:
        files = replace(files, config={**files.config, "add_bos_token": True})
    tokenizer = _tokenizer(ranks, added, pattern, path)
    add_ends(tokenizer, files, {})
    return tokenizer, files


def _tokenizer(
    ranks: Mapping[bytes, int], added: Mapping[int, AddedToken], pattern: str, path: Path
) -> tokenizers.Tokenizer:
    """Two parts merge where they make a token, the lowest rank first, as in tiktoken."""
    vocab = {spell(token): rank for token, rank in ranks.items()}
    merges = [
        (spell(token[:cut]), spell(token[cut:]))
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in sorted(range(1, len(token)), key=lambda i: _rank(ranks, token, i))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    for token_id, token in added.items():
        if vocab.setdefault(token.content, token_id) != token_id:
            raise TokenizerError(
                f"{path}: {token.content!r} has id {vocab[token.content]} by its rank, but is the "
                f"special token {token_id} too; the files are of different tokenizers"
            )
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
        cut_bytes(tokenizer, pattern, add_prefix_space=False)
    except Exception as error:  # the library raises bare Exception for every fault
        raise damaged(path, f"its pattern is not one ({error})") from error
    return tokenizer


def _rank(ranks: Mapping[bytes, int], token: bytes, cut: int) -> tuple[int, int]:
    """The order of the ways to cut a token in two: by the ranks of the parts."""
    return ranks.get(token[:cut], 0), ranks.get(token[cut:], 0)


def _ranks(data: bytes, path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            text, rank = line.split()
            token = base64.b64decode(text, validate=True)
            value = int(rank)
        except (ValueError, binascii.Error) as error:
            raise damaged(path, f"line {number} is not a base64 text and a rank") from error
        if not token or token in ranks or value != len(ranks):
            raise damaged(path, f"line {number} repeats a token or leaves out a rank")
        ranks[token] = value
    _check_bytes(ranks, path)
    return ranks


def _check_bytes(ranks: Mapping[bytes, int], path: Path) -> None:
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise damaged(path, f"there is no token for the byte 0x{missing[0]:02X}")


def _rank_profile(files: TokenizerFiles, path: Path) -> RankProfile:
    for key in ("pat_str", "pattern"):
        if isinstance(files.config.get(key), str):
            return RankProfile(files.config[key])
    name = tokenizer_class(files)
    if name not in RANK_PROFILES:
        raise unknown_class(name, RANK_PROFILES, path, "put the pattern as pat_str into it")
    return RANK_PROFILES[name]


def _rank_specials(
    files: TokenizerFiles, profile: RankProfile, count: int, path: Path
) -> dict[int, AddedToken]:
    """The tokens behind the ranks. Where they begin shows whether the rank file is whole."""
    added = dict(files.added)
    if profile.specials:
        first = profile.first_special
        added |= {first + i: AddedToken(t, special=True) for i, t in enumerate(profile.specials)}
    begin = min((token_id for token_id in added if token_id >= count), default=count)
    if begin != count:
        raise damaged(path, f"it ends at rank {count - 1}, and the next token has id {begin}")
    for token_id in range(count, count + profile.reserved):
        added.setdefault(token_id, AddedToken(f"<|reserved_token_{token_id}|>", special=True))
    return {token_id: replace(added[token_id], normalized=False) for token_id in sorted(added)}
