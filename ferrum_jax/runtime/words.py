"""Bad words and ends of a text as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.types import RequestError, SamplingParams, TokenizerError
from ferrum_jax.types.sampling import MAX_BAD_TOKENS, MAX_END_IDS


def spell_words(
    words: Sequence[str], tokenizer: Tokenizer | None, vocab_size: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Every spelling of the words: at a text's start, behind a space, and within a text.

    Raises:
        TokenizerError: there are words and no tokenizer.
        RequestError: the spellings have too many tokens, a word has none, or one of an id outside
            the model's vocabulary.
    """
    if not words:
        return ()
    if tokenizer is None:
        raise TokenizerError(
            "bad_words are texts, and this model was loaded without a tokenizer; forbid single "
            "tokens with logit_bias, or put tokenizer.json or tokenizer.model beside its weights"
        )
    found = dict.fromkeys(s for word in words for s in _spellings(word.strip(), tokenizer))
    for spelling in found:
        _check_spelling(spelling, vocab_size)
    count = sum(map(len, found))
    if count > MAX_BAD_TOKENS:
        raise RequestError(
            f"bad_words has {count} tokens in all spellings; at most {MAX_BAD_TOKENS}: name fewer "
            "or shorter words"
        )
    return tuple(found)


def _check_spelling(spelling: tuple[int, ...], vocab_size: int | None) -> None:
    if not spelling:
        raise RequestError("bad_words holds a word of which the tokenizer makes no token")
    if vocab_size is not None and max(spelling) >= vocab_size:
        raise RequestError(
            f"bad_words has a word with token id {max(spelling)}; the vocabulary has {vocab_size} "
            f"ids (0 to {vocab_size - 1})"
        )


def _spellings(word: str, tokenizer: Tokenizer) -> Iterable[tuple[int, ...]]:
    for text in (word, f" {word}"):
        yield tuple(tokenizer.encode(text, add_special_tokens=False))
    # Some tokenizers put a space before whatever a text starts with; behind a line feed a word
    # shows its spelling without one.
    before = tokenizer.encode("\n", add_special_tokens=False)
    whole = tokenizer.encode(f"\n{word}", add_special_tokens=False)
    if whole[: len(before)] == before and len(whole) > len(before):
        yield tuple(whole[len(before) :])


def end_ids(params: SamplingParams, eos: frozenset[int]) -> tuple[int, ...]:
    """The token ids that end a completion.

    Raises:
        RequestError: they are more than `min_tokens` can hold off.
    """
    ids = {*params.stop_token_ids, *(() if params.ignore_eos else eos)}
    if params.min_tokens and len(ids) > MAX_END_IDS:
        raise RequestError(
            f"min_tokens is {params.min_tokens} and {len(ids)} ids end a text (stop_token_ids and "
            f"EOS); it can hold off at most {MAX_END_IDS}: name fewer stop_token_ids"
        )
    return tuple(sorted(ids))
