"""The documents of a comparison: the same token ids for both sides, in groups that fit memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ferrum_jax.research.compare.side import Documents, ModelSide, SavedSide, Side
from ferrum_jax.runtime.intake import checked_token_ids
from ferrum_jax.runtime.prompts import Prompt, as_prompts
from ferrum_jax.types import RequestError

FLOAT_BYTES = 4


def read_documents(
    texts: Prompt | Sequence[Prompt] | None, a: Side, b: Side, min_context: int
) -> list[tuple[int, ...]]:
    """Token ids of every document, the same for both sides.

    Raises:
        RequestError: there are none; one is empty, too short or too long, has an id that is none,
            is spelled otherwise by the other side's tokenizer, or is not in a side's file.
        TokenizerError: a text is given and no side has a tokenizer.
    """
    listed = _listed(texts, a, b)
    if not listed:
        raise RequestError("there are no texts; give at least one")
    documents = []
    for number, given in enumerate(listed):
        try:
            ids = checked_token_ids(given, a.vocab_size)
        except RequestError as error:
            raise RequestError(f"document {number}: {error}") from error
        if len(ids) <= min_context:
            raise RequestError(
                f"document {number} has {len(ids)} token{'' if len(ids) == 1 else 's'}, and "
                f"min_context is {min_context}: none of them can be scored; leave it out"
            )
        for name, side in (("a", a), ("b", b)):
            _check_runs(f"document {number}", ids, name, side)
        documents.append(ids)
    return documents


def groups_of(
    documents: Sequence[tuple[int, ...]], max_bytes: int, vocab_size: int
) -> Iterator[Documents]:
    """Consecutive documents whose distributions, float32 `[tokens, V]`, take at most `max_bytes`.

    A longer document makes a group of its own.
    """
    limit = max_bytes // (FLOAT_BYTES * vocab_size)
    group: dict[int, tuple[int, ...]] = {}
    tokens = 0
    for number, ids in enumerate(documents):
        if group and tokens + len(ids) > limit:
            yield group
            group, tokens = {}, 0
        group[number] = ids
        tokens += len(ids)
    yield group


def _listed(texts: Prompt | Sequence[Prompt] | None, a: Side, b: Side) -> list[tuple[int, ...]]:
    if texts is None:
        saved = next((side.saved for side in (a, b) if isinstance(side, SavedSide)), None)
        if saved is None:
            raise RequestError("texts is None; give texts, or a side whose file holds some")
        return list(saved.documents)
    if not hasattr(texts, "__iter__"):
        raise RequestError(f"texts is {texts!r}; give texts or lists of token ids")
    return [_spelled(number, text, a, b) for number, text in enumerate(as_prompts(texts))]


def _spelled(number: int, text: Prompt, a: Side, b: Side) -> tuple[int, ...]:
    """Token ids of a text, by both sides' tokenizers where both have one."""
    if not isinstance(text, str):
        return tuple(text)
    models = [side.llm for side in (a, b) if isinstance(side, ModelSide)]
    if not models:
        raise RequestError(
            f"document {number} is a text and no side has a tokenizer; give token ids, or no texts "
            "at all for those of the file"
        )
    spellings = [tuple(llm.encode(text)) for llm in models if llm.tokenizer is not None]
    if not spellings:
        models[0].encode(text)  # says what is missing
    for first, second in pairwise(spellings):
        if first != second:
            at = next(
                (i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y),
                min(len(first), len(second)),
            )
            raise RequestError(
                f"the tokenizers of the two sides spell document {number} differently, from token "
                f"{at} on ({len(first)} and {len(second)} tokens); compare models of one "
                "vocabulary, or give token ids"
            )
    return spellings[0]


def _check_runs(what: str, ids: tuple[int, ...], name: str, side: Side) -> None:
    """Whether a side can give predictions for a document."""
    if isinstance(side, SavedSide):
        if side.saved.find(ids) is None:
            raise RequestError(
                f"{what} ({len(ids)} tokens) is not in {side.saved.path}, side {name}, which holds "
                f"{len(side.saved.documents)} documents; leave texts out to compare just those"
            )
    elif len(ids) > side.llm.max_model_len:
        raise RequestError(
            f"{what} has {len(ids)} tokens and side {name} takes {side.llm.max_model_len}; cut it, "
            "or raise EngineConfig.max_model_len"
        )
