"""tokenizer.model, read by the `sentencepiece` library.

The rules around the library are those of transformers' sentencepiece-based LlamaTokenizer, read
from tokenizer_config.json: `add_bos_token`, `add_eos_token`, `legacy` and `add_prefix_space`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

import sentencepiece

from ferrum_jax.tokenizer.base import FileTokenizer, check_ids, check_text, no_such_token
from ferrum_jax.tokenizer.files import AddedToken, TokenizerFiles
from ferrum_jax.tokenizer.spelling import words
from ferrum_jax.tokenizer.split import TokenSplitter
from ferrum_jax.types.errors import TokenizerError

SPACE = "▁"

# A protobuf message's bytes may be continued with more of its fields: the later value wins. These
# say normalizer_spec (field 3) { add_dummy_prefix (field 3): false }.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceTokenizer(FileTokenizer):
    """A sentencepiece model with the special and added tokens of the files beside it.

    `legacy` (transformers' default where the key is absent) gives every stretch of text between
    special tokens sentencepiece's dummy space in front; otherwise only the whole text gets one, if
    `add_prefix_space`. Decoding takes the same spaces away again. Bytes that are no UTF-8 become
    one U+FFFD each, as in sentencepiece. A T5Tokenizer ends texts with EOS and has no BOS.
    """

    def __init__(self, data: bytes, files: TokenizerFiles, source: str = "tokenizer.model") -> None:
        """Read a model's bytes; raises TokenizerError naming `source`."""
        config = files.config
        self._legacy = config.get("legacy") is not False
        self._prefix_space = config.get("add_prefix_space") is not False
        self._model = _parse(data, source)
        self._bare = self._model if self._legacy else _parse(data + _NO_DUMMY_PREFIX, source)
        self._added = {i: token for i, token in files.added.items() if i >= len(self._model)}
        named = {**_own_names(self._model), **files.named}
        special_ids = self._find_special(files, named)
        super().__init__(files, named, self._find, special_ids)
        self._splitter = TokenSplitter(self._split_tokens(files, special_ids))
        is_t5 = str(config.get("tokenizer_class")).removesuffix("Fast") == "T5Tokenizer"
        self._add_bos = config.get("add_bos_token", not is_t5) is not False
        self._add_eos = config.get("add_eos_token", is_t5) is True
        self._eos = self._find(named.get("eos_token") or "")

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return max(len(self._model), max(self._added, default=-1) + 1)

    def encode(
        self, text: str, *, add_special_tokens: bool = True, max_length: int | None = None
    ) -> list[int]:
        """Token ids of a text; raises RequestError for a text that is not valid Unicode.

        `max_length` cuts the text's tokens on the side that `truncation_side` names, and leaves BOS
        and EOS around them.
        """
        ids = self._encode_text(check_text(text))
        bos = [self._bos_token_id] if self._add_bos and self._bos_token_id is not None else []
        eos = [self._eos] if self._add_eos and self._eos is not None else []
        if not add_special_tokens:
            bos = eos = []
        if max_length is not None:
            room = self._room(max_length, len(bos) + len(eos))
            ids = ids if len(ids) <= room else self._truncated(ids, room)
        return bos + ids + eos

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of the ids; ids outside the vocabulary have no text."""
        kept = [
            token_id
            for token_id in check_ids(ids)
            if self._exists(token_id)
            and not (skip_special_tokens and token_id in self._special_ids)
        ]
        return "".join(self._decode_sections(kept))

    def token_bytes(self) -> list[bytes]:
        """The bytes of every id; those of ids that the vocabulary leaves out are empty."""
        return [
            self.token_text(i).encode("utf-8")
            if self._stands_alone(i)
            else words(self.token_text(i) if self._exists(i) else "")
            for i in range(self.vocab_size)
        ]

    def token_text(self, token_id: int) -> str:
        """A token as its vocabulary spells it; raises TokenizerError for an unknown id."""
        if token_id in self._added:
            return self._added[token_id].content
        if not 0 <= token_id < len(self._model):
            raise no_such_token(token_id, self.vocab_size)
        return self._model.id_to_piece(token_id)

    def _exists(self, token_id: int) -> bool:
        return token_id < len(self._model) or token_id in self._added

    def _find(self, text: str) -> int | None:
        """The id of a token's text, looked up in the model and then in the added tokens."""
        token_id = self._model.piece_to_id(text)
        if self._model.id_to_piece(token_id) == text:
            return token_id
        return next((i for i, token in self._added.items() if token.content == text), None)

    def _find_special(self, files: TokenizerFiles, named: dict[str, str | None]) -> frozenset[int]:
        texts = [text for text in (*named.values(), *files.extra_special) if text]
        found = {self._find(text) for text in texts} - {None}
        marked = {i for i, token in files.added.items() if token.special and self._exists(i)}
        control = {i for i in range(len(self._model)) if self._model.is_control(i)}
        return frozenset(found | marked | control)  # pyright: ignore[reportReturnType]

    def _split_tokens(
        self, files: TokenizerFiles, special_ids: frozenset[int]
    ) -> dict[int, AddedToken]:
        """What is split out of a text: named and listed tokens, not the model's other controls."""
        names = {i for i in special_ids if not self._is_silent_control(i, files)}
        plain = {i: AddedToken(self.token_text(i), special=True) for i in names}
        return {**plain, **{i: token for i, token in files.added.items() if self._exists(i)}}

    def _is_silent_control(self, token_id: int, files: TokenizerFiles) -> bool:
        text = self.token_text(token_id)
        named = {*_own_names(self._model).values(), *files.named.values(), *files.extra_special}
        return text not in named and token_id not in files.added

    def _encode_text(self, text: str) -> list[int]:
        if not self._legacy and text:
            text = text.replace(SPACE, " ")
            text = SPACE + text if self._prefix_space else text
        ids: list[int] = []
        for part in self._splitter.split(text):
            ids += [part] if isinstance(part, int) else self._encode_plain(part)
        lone = not self._legacy and len(ids) > 1 and self._model.id_to_piece(ids[0]) == SPACE
        return ids[1:] if lone and ids[1] in self._special_ids else ids

    def _encode_plain(self, text: str) -> list[int]:
        if self._legacy or not text.startswith((SPACE, " ")):
            return self._bare.encode(text)
        # sentencepiece may strip the spaces that a text starts with; behind another piece it does
        # not, so the unknown token's text goes in front and its pieces are taken off again.
        guard = self._model.id_to_piece(self._model.unk_id())
        return self._bare.encode(guard + text)[len(self._bare.encode(guard)) :]

    def _decode_sections(self, ids: list[int]) -> Iterator[str]:
        """The text of every stretch of pieces and of every special or added token."""
        first = True
        for is_token, group in groupby(ids, self._stands_alone):
            if is_token:
                yield "".join(map(self.token_text, group))
            else:
                strip = self._legacy or (first and self._prefix_space)
                yield self._decode_pieces(list(group), strip=strip)
            first = False

    def _stands_alone(self, token_id: int) -> bool:
        return token_id in self._special_ids or token_id in self._added

    def _decode_pieces(self, ids: list[int], *, strip: bool) -> str:
        text = "".join(
            self._decode_bytes(group) if is_byte else self._decode_words(group)
            for is_byte, group in groupby(ids, self._model.is_byte)
        )
        return text[1:] if strip and self.token_text(ids[0]).startswith(SPACE) else text

    def _decode_words(self, ids: Iterator[int]) -> str:
        return "".join(map(self._model.id_to_piece, ids)).replace(SPACE, " ")

    def _decode_bytes(self, ids: Iterator[int]) -> str:
        data = bytes(int(self._model.id_to_piece(token_id)[3:5], 16) for token_id in ids)
        # surrogateescape marks each byte that fits no character with a surrogate of its own.
        return re.sub("[\udc80-\udcff]", "\ufffd", data.decode("utf-8", "surrogateescape"))


def _own_names(model: sentencepiece.SentencePieceProcessor) -> dict[str, str | None]:
    """The special tokens that the model itself names."""
    ids = {"unk_token": model.unk_id(), "bos_token": model.bos_id(), "eos_token": model.eos_id()}
    return {name: model.id_to_piece(i) for name, i in ids.items() if i >= 0}


def _parse(data: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    advice = f"{source} is not a whole sentencepiece model"
    try:
        fields = _fields(data)
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
    except (RuntimeError, ValueError, IndexError) as error:
        raise TokenizerError(f"{advice} ({error}); download it again") from error
    # A file cut between two fields still parses. Pieces, trainer and normalizer are always there.
    if not {1, 2, 3} <= fields or len(model) == 0:
        raise TokenizerError(f"{advice} (it has only the fields {fields}); download it again")
    return model


def _fields(data: bytes) -> set[int]:
    """The numbers of a protobuf message's fields, which here are all length-delimited."""
    fields, offset = set(), 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        if key & 7 != 2:
            raise ValueError(f"field {key >> 3} has wire type {key & 7}, not 2")
        length, offset = _varint(data, offset)
        offset += length
        fields.add(key >> 3)
    if offset != len(data):
        raise ValueError(f"{offset - len(data)} bytes are missing at its end")
    return fields


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """A protobuf base-128 number and the offset behind it."""
    value = shift = 0
    while data[offset] & 0x80:
        value |= (data[offset] & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
    return value | data[offset] << shift, offset + 1
