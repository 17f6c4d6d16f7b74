"""Log-likelihoods of continuations, as lm-eval defines them, by the paged engine."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import RequestError, Taps

EXTRA_TOKENS = 1
"""Tokens beyond `max_length` that an engine must have room for: the last target, which follows the
`max_length` tokens that are seen."""


def loglikelihoods(
    llm: LLM,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    max_length: int,
    taps: Taps | None = None,
    progress: bool = False,
) -> list[tuple[float, bool]]:
    """log p(continuation | context) of each pair of token ids, all in one batch.

    The model sees `max_length` tokens: what is longer loses the left of its context, with a
    warning. The last token of a continuation is only predicted and does not count.

    Args:
        taps: edits of the model, for all pairs.
        progress: show a bar by pairs.

    Returns:
        Per pair the sum of the logprobs in nats, and whether every token of the continuation is
        the likeliest (the one of the lowest id, if several are).

    Raises:
        RequestError: a context or a continuation is empty, or a continuation is longer than
            `max_length`, or the engine's sequences are shorter.
    """
    check_room(llm, max_length)
    for context, continuation in pairs:
        _check(context, continuation, max_length)
    wholes = [[*context, *continuation] for context, continuation in pairs]
    windows = [ids[-(max_length + 1) :] for ids in wholes]
    note_truncated(sum(len(ids) > max_length + 1 for ids in wholes), len(wholes), max_length)
    scores = llm.score(windows, taps=taps, progress=progress) if windows else []
    return [
        (
            math.fsum(score.logprobs[-len(continuation) :].tolist()),
            bool(np.all(score.ranks[-len(continuation) :] == 1)),
        )
        for score, (_, continuation) in zip(scores, pairs, strict=True)
    ]


def check_room(llm: LLM, max_length: int) -> None:
    """Raise `RequestError` unless the engine's sequences hold `max_length` tokens and the rest."""
    if llm.max_model_len < max_length + EXTRA_TOKENS:
        raise RequestError(
            f"max_length is {max_length}, and the engine's sequences have at most "
            f"{llm.max_model_len} tokens, of which {EXTRA_TOKENS} are for what is predicted; give "
            f"max_length={llm.max_model_len - EXTRA_TOKENS}, or "
            f"EngineConfig(max_model_len={max_length + EXTRA_TOKENS})"
        )


def note_truncated(count: int, of: int, max_length: int) -> None:
    """Warn that the contexts of `count` of `of` requests were shortened."""
    if count:
        warnings.warn(
            f"{count} of {of} requests are longer than the {max_length} tokens that the model may "
            "see; the left of their contexts is left out",
            stacklevel=3,
        )


def _check(context: Sequence[int], continuation: Sequence[int], max_length: int) -> None:
    if not context or not continuation:
        which = "context" if not context else "continuation"
        raise RequestError(
            f"a {which} has no tokens; give at least one (a prefix token, for an empty context)"
        )
    if len(continuation) > max_length:
        raise RequestError(
            f"a continuation has {len(continuation)} tokens; max_length = {max_length} is the most "
            "that can be scored with one context: shorten it, or raise max_length"
        )
