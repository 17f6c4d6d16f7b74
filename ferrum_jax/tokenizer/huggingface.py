"""tokenizer.json, read by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from ferrum_jax.tokenizer.base import FileTokenizer, check_ids, check_text, no_such_token
from ferrum_jax.tokenizer.files import AddedToken, TokenizerFiles
from ferrum_jax.types.errors import TokenizerError


class HuggingFaceTokenizer(FileTokenizer):
    """A tokenizer.json as it stands: its normalizer, model, post-processor and decoder.

    As `transformers` does, the special tokens that the other files name are split out of a text,
    truncation and padding written into the file are switched off, and BOS and EOS are added as the
    file's post-processor says. `clean_up_tokenization_spaces` is not applied: decode gives back
    the text that the tokens stand for.
    """

    def __init__(self, data: str, files: TokenizerFiles, source: str = "tokenizer.json") -> None:
        """Read a tokenizer.json's text; raises TokenizerError naming `source`."""
        self._tokenizer = _parse(data, source)
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

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return self._vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; raises RequestError for a text that is not valid Unicode."""
        text = check_text(text)
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of the ids; ids outside the vocabulary have no text."""
        known = [token_id for token_id in check_ids(ids) if token_id < self._vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)

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


def _library_token(token: AddedToken) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content,
        special=token.special,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
        normalized=token.normalized and not token.special,
    )
