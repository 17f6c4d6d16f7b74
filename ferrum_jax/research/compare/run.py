"""`compare`: two models, two ways to run one, or a model and another system's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ferrum_jax.research.compare.bootstrap import Bootstrap
from ferrum_jax.research.compare.comparison import Comparison
from ferrum_jax.research.compare.curves import curves_of
from ferrum_jax.research.compare.documents import read_documents
from ferrum_jax.research.compare.parting import Parting, measure_parting, why_not
from ferrum_jax.research.compare.settings import differences, settings_of
from ferrum_jax.research.compare.side import (
    ModelSide,
    SavedSide,
    Side,
    as_side,
    check_pair,
    tokenizer_of,
)
from ferrum_jax.research.compare.statistics import figures_of
from ferrum_jax.research.compare.tokens import measure
from ferrum_jax.research.compare.worst import worst_tokens
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.runtime.record import environment
from ferrum_jax.types import RequestError


def compare(
    a: Any,
    b: Any,
    texts: Prompt | Sequence[Prompt] | None = None,
    *,
    names: tuple[str, str] = ("a", "b"),
    min_context: int = 1,
    worst: int = 10,
    parting: bool | float = True,
    resamples: int = 1000,
    seed: int = 0,
    max_held_bytes: int = 2**30,
    command: str | Sequence[str] | None = None,
    progress: bool = False,
) -> Comparison:
    """How `b` differs from the reference `a` on the same tokens, each figure with its error.

    A side is an `fj.LLM`, `(llm, taps)` with edits, a `SavedLogprobs` or the path of its file. Two
    LLMs may differ in anything but their token ids: weights, dtype, quantisation, kernel, cache,
    config. Models run in their engines, and so in the batches and chunks of serving; `compare(x,
    x, texts)` is exactly zero everywhere.

    Memory: of both sides' distributions, float32 `[tokens, V]` on the host, at most
    `max_held_bytes` are held for one side and a step for the other; a document longer than that is
    held whole if both sides are one LLM, and by steps otherwise. A few numbers per token are kept.

    Args:
        texts: documents, as texts or lists of token ids; None: those of a side's file.
        names: what the report calls the sides.
        min_context: score tokens with at least so many tokens before them.
        worst: how many of the tokens that differ most are listed.
        parting: measure where in the network the two first part, on the first 256 tokens; a number
            is the relative error that counts as parting, in place of `rounding_threshold`.
        resamples, seed: of the bootstrap over documents. Its time grows with `resamples` times
            tokens: 1000 times 100,000 take 1.2 s on one core of an AMD EPYC.
        command: for the record; None: `sys.argv`.
        progress: show a bar by tokens.

    Raises:
        RequestError: a side that is none, other vocabularies, texts that the sides do not share,
            or an argument out of its range.
        TokenizerError: texts, where no side has a tokenizer.
    """
    _check_names(names)
    _check_numbers(min_context, worst, max_held_bytes)
    one, other = as_side("a", a), as_side("b", b)
    check_pair(one, other)
    documents = read_documents(texts, one, other, min_context)
    bootstrap = Bootstrap(len(documents), resamples, seed)
    parted, note = _parting(one, other, documents, parting)
    tokens = measure(
        one,
        other,
        documents,
        min_context=min_context,
        max_held_bytes=max_held_bytes,
        progress=progress,
    )
    settings = settings_of(one, other)
    return Comparison(
        **vars(figures_of(tokens, bootstrap)),
        names=(names[0], names[1]),
        num_documents=len(documents),
        num_tokens=len(tokens),
        min_context=min_context,
        kld_is_bound=any(isinstance(s, SavedSide) and bool(s.saved.top_k) for s in (one, other)),
        resamples=resamples,
        seed=seed,
        settings=settings,
        differences=differences(one, other, settings),
        worst=worst_tokens(tokens, documents, tokenizer_of(one, other), worst),
        parting=parted,
        parting_note=note,
        curves=curves_of(tokens, bootstrap),
        record=environment(command),
        tokens=tokens,
    )


def _parting(
    a: Side, b: Side, documents: Sequence[tuple[int, ...]], wanted: bool | float
) -> tuple[Parting | None, str]:
    """Where the two part, or why that is not measured."""
    if wanted is False:
        return None, "parting=False"
    threshold = None if wanted is True else wanted
    if threshold is not None and not threshold >= 0:
        raise RequestError(f"parting is {wanted!r}; give True, False or a relative error")
    if reason := why_not(a, b):
        return None, reason
    assert isinstance(a, ModelSide)
    assert isinstance(b, ModelSide)
    return measure_parting(a, b, documents, threshold=threshold), ""


def _check_names(names: Any) -> None:
    if (
        not isinstance(names, tuple | list)
        or len(names) != 2
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise RequestError(f"names is {names!r}; give two texts")
    if names[0] == names[1]:
        raise RequestError(f"both sides are named {names[0]!r}; give two different names")


def _check_numbers(min_context: Any, worst: Any, max_held_bytes: Any) -> None:
    for name, value, low in (
        ("min_context", min_context, 1),
        ("worst", worst, 0),
        ("max_held_bytes", max_held_bytes, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise RequestError(f"{name} is {value!r}; give an integer of at least {low}")
