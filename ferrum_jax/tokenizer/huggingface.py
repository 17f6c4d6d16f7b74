"""tokenizer.json, read by the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Sequence

import tokenizers
from tokenizers import models

from ferrum_jax.tokenizer.base import FileTokenizer, check_ids, check_text, no_such_token
from ferrum_jax.tokenizer.clean import CLEAN_UP, Replacements, clean
from ferrum_jax.tokenizer.files import AddedToken, TokenizerFiles
from ferrum_jax.tokenizer.spelling import spelling_of
from ferrum_jax.types.errors import TokenizerError, UnsupportedError


class HuggingFaceTokenizer(FileTokenizer):
    """A tokenizer.json as it stands: its normalizer, model, post-processor and decoder.

    As in transformers the special tokens that the other files name are split out of a text, and
    truncation and padding written into the file are switched off. BOS and EOS are added as the
    file's post-processor says, whatever `add_bos_token` in tokenizer_config.json is.
    `clean_up_tokenization_spaces` counts for all but BPE.
    """

    def __init__(
        self,
        data: str | tokenizers.Tokenizer,
        files: TokenizerFiles,
        source: str = "tokenizer.json",
    ) -> None:
        """Read a tokenizer.json's text, or take a tokenizer of the library.

        Raises:
            TokenizerError: the text is no tokenizer.json, or the files beside it misfit; the
                message names `source`.
            UnsupportedError: its decoder gives no text that can be streamed.
        """
        self._tokenizer = _parse(data, source) if isinstance(data, str) else data
        _check_decoder(self._tokenizer, source)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        _add_listed(self._tokenizer, files, source)
        _mark_named(self._tokenizer, files)
        added = self._tokenizer.get_added_tokens_decoder()
        super().__init__(
            files,
            files.named,
            self._tokenizer.token_to_id,
            (token_id for token_id, token in added.items() if token.special),
        )
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self._vocab_size = max(ids, default=-1) + 1
        self._replacements = _replacements(self._tokenizer, files)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return self._vocab_size

    @property
    def replacements(self) -> Replacements:
        """What `decode` replaces by what, where tokenizer_config.json asks for a clean-up."""
        return self._replacements

    def encode(
        self, text: str, *, add_special_tokens: bool = True, max_length: int | None = None
    ) -> list[int]:
        """Token ids of a text; raises RequestError for a text that is not valid Unicode.

        `max_length` cuts the text's tokens on the side that `truncation_side` names, and leaves the
        special tokens around them.
        """
        encoding = self._tokenizer.encode(check_text(text), add_special_tokens=False)
        if max_length is not None:
            extra = self._tokenizer.num_special_tokens_to_add(False) if add_special_tokens else 0
            room = self._room(max_length, extra)
            encoding.truncate(room, direction=self._truncation_side)
        if not add_special_tokens:
            return encoding.ids
        return self._tokenizer.post_process(encoding, None, True).ids

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids without special ones around them, and each one's characters in the text."""
        encoding = self._tokenizer.encode(check_text(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of the ids; ids outside the vocabulary have no text."""
        text = self.decode_uncleaned(ids, skip_special_tokens=skip_special_tokens)
        return clean(text, self._replacements)

    def decode_uncleaned(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text before `clean_up_tokenization_spaces`."""
        known = [token_id for token_id in check_ids(ids) if token_id < self._vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)

    def token_bytes(self) -> list[bytes]:
        """The bytes of every id; those of ids that the vocabulary leaves out are empty.

        Raises:
            UnsupportedError: its tokens have no bytes of their own.
        """
        spell = spelling_of(self._tokenizer.to_str())
        added = self._tokenizer.get_added_tokens_decoder()
        found = []
        for token_id in range(self._vocab_size):
            text = self._tokenizer.id_to_token(token_id) or ""
            found.append(text.encode("utf-8") if token_id in added else spell(text))
        return found

    def token_text(self, token_id: int) -> str:
        """A token as tokenizer.json spells it; raises TokenizerError for an unknown id."""
        in_range = 0 <= token_id < self._vocab_size
        text = self._tokenizer.id_to_token(token_id) if in_range else None
        if text is None:
            raise no_such_token(token_id, self._vocab_size)
        return text


def _parse(data: str, source: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(data)
    except Exception as error:  # the library raises bare Exception for every fault
        raise TokenizerError(
            f"{source} is not a whole tokenizer.json ({error}); download it again"
        ) from error


def _check_decoder(tokenizer: tokenizers.Tokenizer, source: str) -> None:
    """Refuse decoders that change joined text by what comes later: no stream could equal them."""
    if tokenizer.decoder is None:
        return
    state = json.loads(tokenizer.decoder.__getstate__())
    joined = False
    for part in state.get("decoders", [state]):
        kind, pattern = part["type"], part.get("pattern", {})
        wide = kind == "Replace" and len(pattern.get("String", "  ")) != 1
        if joined and (wide or (kind == "Strip" and part["stop"] > 0)):
            raise UnsupportedError(
                f"{source} decodes with {part}, which changes text by what follows it, so that it "
                "cannot be streamed; give lists of token ids instead of texts"
            )
        joined = joined or kind in ("Fuse", "ByteLevel")


def _add_listed(tokenizer: tokenizers.Tokenizer, files: TokenizerFiles, source: str) -> None:
    """Add what tokenizer_config.json lists and tokenizer.json lacks, under the listed ids."""
    known = tokenizer.get_added_tokens_decoder()
    for token_id, token in sorted(files.added.items()):
        if token_id in known and known[token_id].content == token.content:
            continue
        tokenizer.add_tokens([_library_token(token)])
        given = tokenizer.token_to_id(token.content)
        if given != token_id:
            raise TokenizerError(
                f"{source} gives the token {token.content!r} id {given}, but tokenizer_config.json "
                f"says {token_id}; the two files are of different tokenizers"
            )


def _mark_named(tokenizer: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
    """Make the named tokens of the vocabulary special; a name without an id stays plain text."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for text in (*files.named.values(), *files.extra_special):
        if text and text not in known and tokenizer.token_to_id(text) is not None:
            tokenizer.add_special_tokens([_library_token(AddedToken(text, special=True))])


def _replacements(tokenizer: tokenizers.Tokenizer, files: TokenizerFiles) -> Replacements:
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    is_bpe = isinstance(tokenizer.model, models.BPE)
    wanted = files.config.get("clean_up_tokenization_spaces") is True
    return CLEAN_UP if wanted and (not is_bpe or files.config.get(forced) is True) else ()


def _library_token(token: AddedToken) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content,
        special=token.special,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
        normalized=token.normalized and not token.special,
    )
