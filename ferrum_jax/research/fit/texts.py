"""From texts to batches of rows, padded to few lengths.

Dimension key: B rows (texts) of a batch, S tokens of a row with its padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import struct

from ferrum_jax.research.fit.trainable import Trainable
from ferrum_jax.runtime.intake import checked_token_ids
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import RequestError

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM

Text = Prompt | tuple[Prompt, Prompt]
"""A text, of which every token counts; or a prompt and its completion, whose tokens count."""
SHORTEST = 16
"""Rows are padded to this length or a power of two above it."""


@dataclass(frozen=True)
class Example:
    """A text as the model reads it, tokens that the trainable adds included."""

    token_ids: tuple[int, ...]
    first_counted: int
    """Tokens from here on are predicted and counted."""
    prompt_len: int
    """Tokens from here on stand as generated ones."""


@struct.dataclass
class Batch:
    """Rows of equal length. All `[B, S]`."""

    tokens: jax.Array
    """int32"""
    positions: jax.Array
    """int32; 0 for padding, each token of which is a text of its own"""
    prompt_lens: jax.Array
    """int32"""
    mask: jax.Array
    """float32: 1 for tokens whose prediction counts"""


def examples_of(
    llm: LLM, trainable: Trainable, texts: Sequence[Text], name: str
) -> tuple[Example, ...]:
    """Every text, checked.

    Raises:
        RequestError: there are none, or one is too short, too long, or none at all.
        TokenizerError: a text was given and there is no tokenizer.
    """
    if not isinstance(texts, list) or not texts:
        raise RequestError(f"{name} is {texts!r}; give a list of texts, at least one")
    return tuple(_example(llm, trainable, text, f"{name}[{i}]") for i, text in enumerate(texts))


def _example(llm: LLM, trainable: Trainable, text: Text, name: str) -> Example:
    if not isinstance(text, str) and not hasattr(text, "__len__"):
        raise RequestError(
            f"{name} is {text!r}; give a text, a list of token ids, or a pair of a prompt and its "
            "completion"
        )
    is_pair = isinstance(text, tuple) and len(text) == 2 and not isinstance(text[0], int)
    ids, prompt = _joined(llm, *text) if is_pair else (llm.encode(text), None)  # type: ignore[arg-type,misc]
    ids = checked_token_ids(ids, llm.config.vocab_size)
    first = 1 if prompt is None else max(prompt, 1)
    if first >= len(ids):
        what = "its completion has no token" if is_pair else f"it has {len(ids)} token"
        raise RequestError(f"{name}: {what}, so that nothing in it is predicted; leave it out")
    wrapped = trainable.wrap(ids)
    added = len(wrapped) - len(ids)
    if added < 0 or tuple(wrapped[added:]) != ids:
        raise RequestError(
            f"{type(trainable).__name__}.wrap returns {wrapped} for {list(ids)}; it may only add "
            "tokens in front"
        )
    if len(wrapped) > llm.max_model_len:
        raise RequestError(
            f"{name} has {len(wrapped)} tokens; max_model_len = {llm.max_model_len}: shorten it, "
            "or raise EngineConfig.max_model_len"
        )
    prompt_len = len(wrapped) if prompt is None else added + prompt
    return Example(tuple(map(int, wrapped)), added + first, prompt_len)


def _joined(llm: LLM, prompt: Prompt, completion: Prompt) -> tuple[Sequence[int], int]:
    """Tokens of a pair, and how many of them are the prompt's.

    Two texts are joined before they are encoded, so that the completion gets no start token; a
    token across the border is the completion's.
    """
    first = llm.encode(prompt) if prompt else []
    if not (isinstance(prompt, str) and isinstance(completion, str)):
        return [*first, *llm.encode(completion)], len(first)
    whole = llm.encode(prompt + completion)
    shared = 0
    while shared < min(len(first), len(whole)) and first[shared] == whole[shared]:
        shared += 1
    return whole, shared


def training_batches(examples: Sequence[Example], batch_size: int, seed: int) -> Iterator[Batch]:
    """Batches without end: every epoch holds each text once, in an order that follows from
    (seed, epoch). A batch never holds a text twice unless an epoch ends within it."""
    batch: list[Example] = []
    epoch = 0
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(len(examples)):
            batch.append(examples[index])
            if len(batch) == batch_size:
                yield make_batch(batch, batch_size)
                batch = []
        epoch += 1


def evaluation_batches(examples: Sequence[Example], batch_size: int) -> list[Batch]:
    """Every text once, those of like length together; the last batch has empty rows."""
    ordered = sorted(examples, key=lambda example: len(example.token_ids))
    return [
        make_batch(ordered[start : start + batch_size], batch_size)
        for start in range(0, len(ordered), batch_size)
    ]


def make_batch(examples: Sequence[Example], rows: int) -> Batch:
    """Texts as rows, on the host; rows that no text fills are padding."""
    length = padded_length(max(len(example.token_ids) for example in examples))
    tokens, positions, prompt_lens = (np.zeros((rows, length), np.int32) for _ in range(3))
    mask = np.zeros((rows, length), np.float32)
    for row, example in enumerate(examples):
        count = len(example.token_ids)
        tokens[row, :count] = example.token_ids
        positions[row, :count] = np.arange(count)
        prompt_lens[row, :count] = example.prompt_len
        mask[row, example.first_counted : count] = 1.0
    arrays: dict[str, Any] = {"tokens": tokens, "positions": positions}
    return Batch(**arrays, prompt_lens=prompt_lens, mask=mask)  # type: ignore[arg-type]


def padded_length(count: int) -> int:
    """The declared length that so many tokens are padded to."""
    return max(SHORTEST, 1 << (count - 1).bit_length())
