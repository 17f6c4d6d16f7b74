"""The bytes of each token: what a grammar reads, and what texts are made of.

Only for tokenizers whose text is the tokens' bytes end to end (but for a space that decoding takes
from the text's start): byte-level ones, and those of sentencepiece's kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from ferrum_jax.tokenizer.vocabulary import LETTERS
from ferrum_jax.types.errors import UnsupportedError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Spell = Callable[[str], bytes]


def byte_level(text: str) -> bytes:
    """A token of a byte-level vocabulary, which writes every byte as one printable character."""
    try:
        return bytes(_BYTES[char] for char in text)
    except KeyError:
        return text.encode("utf-8")


def words(text: str) -> bytes:
    """A token of sentencepiece's kind: `▁` is a space, `<0x0A>` a byte."""
    byte = _BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode("utf-8")


def spelling_of(tokenizer_json: str) -> Spell:
    """How the decoder of a tokenizer.json spells the tokens of its vocabulary.

    Raises:
        UnsupportedError: its text is not the tokens' bytes end to end.
    """
    kinds = {part["type"] for part in _parts(json.loads(tokenizer_json).get("decoder"))}
    if kinds == {"ByteLevel"}:
        return byte_level
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return words
    raise UnsupportedError(
        f"the tokens of this tokenizer have no bytes of their own (its decoder is of the kinds "
        f"{sorted(kinds) or 'none'}); guided decoding takes byte-level and sentencepiece tokenizers"
    )


def _parts(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _parts(part)
    else:
        yield decoder


_BYTES = {letter: byte for byte, letter in LETTERS.items()}
