"""What the readers of vocabularies without a tokenizer.json share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import tokenizers
from tokenizers import decoders, pre_tokenizers, processors

from ferrum_jax.tokenizer.files import TokenizerFiles, read_bytes
from ferrum_jax.types.errors import TokenizerError

Converted = tuple[tokenizers.Tokenizer, TokenizerFiles]

ONE_DIGIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizers cut a text: every digit alone."""


def cut_bytes(
    tokenizer: tokenizers.Tokenizer, pattern: str | None, *, add_prefix_space: bool
) -> None:
    """Byte-level tokens of what `pattern` cuts a text into."""
    as_bytes = pre_tokenizers.ByteLevel(
        add_prefix_space=add_prefix_space, use_regex=pattern is None
    )
    tokenizer.pre_tokenizer = as_bytes
    if pattern is not None:
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()


def add_ends(
    tokenizer: tokenizers.Tokenizer, files: TokenizerFiles, vocab: Mapping[str, int]
) -> None:
    """BOS before and EOS behind every text, where tokenizer_config.json asks for them."""
    ids = {token.content: token_id for token_id, token in files.added.items()} | dict(vocab)
    wanted = [name for name in ("bos", "eos") if files.config.get(f"add_{name}_token") is True]
    ends = {name: files.named.get(f"{name}_token") or "" for name in wanted}
    put_ends(tokenizer, {name: text for name, text in ends.items() if text in ids}, ids)


def put_ends(
    tokenizer: tokenizers.Tokenizer, ends: Mapping[str, str], ids: Mapping[str, int]
) -> None:
    """The token `bos` before and `eos` behind every text, as far as `ends` has them."""
    single = [f"{ends[n]}:0" if n in ends else "" for n in ("bos", "eos")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{single[0]} $A:0 {single[1]}".strip(),
        special_tokens=[(text, ids[text]) for text in dict.fromkeys(ends.values())],
    )


def _byte_letters() -> dict[int, str]:
    """The letter for each byte in byte-level vocabularies: itself, or one from U+0100 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}


LETTERS = _byte_letters()


def spell(token: bytes) -> str:
    """A token's bytes as byte-level vocabularies write them."""
    return "".join(map(LETTERS.__getitem__, token))


def read_utf8(path: Path, what: str) -> str:
    """A file's text; raises TokenizerError for what is no UTF-8."""
    try:
        return read_bytes(path, what).decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, f"it is not UTF-8 ({error})") from error


def tokenizer_class(files: TokenizerFiles) -> str | None:
    """The tokenizer class, slow and fast ones under one name."""
    name = files.config.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else None


def unknown_class(
    name: str | None, known: Collection[str], path: Path, remedy: str
) -> TokenizerError:
    """The error for a tokenizer class that no table has."""
    names = ", ".join(known)
    return TokenizerError(
        f"{path}: tokenizer_config.json names the tokenizer_class {name!r}, and how that one cuts "
        f"a text is not known (known: {names}); {remedy}"
    )


def damaged(path: Path, why: str) -> TokenizerError:
    """The error for a file that cannot be what it is called."""
    return TokenizerError(f"{path} is damaged: {why}; download it again")
