"""What a sweep measures. Every metric gives a figure per document, so that it has an honest error.

`nll`, `bits_per_byte` and `logprob_of` are read from `llm.score`; variants that edit the same model
in the same way then run as one batch. Any function `(llm, taps) -> float | floats` is a metric too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferrum_jax.research.sweep.statistics import DocumentValues
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.runtime.prompts import Prompt, as_prompts, prompt_text
from ferrum_jax.types import RequestError, Score, TokenizerError

UserMetric = Callable[[LLM, Any], float | Sequence[float] | DocumentValues]
Texts = Prompt | Sequence[Prompt]


@dataclass(frozen=True)
class ScoredMetric:
    """A metric that is read from the logprobs of its documents' tokens."""

    texts: tuple[Prompt, ...]

    name = "scored"
    unit = ""

    def prompts(self, llm: LLM) -> list[list[int]]:
        """Token ids of every document, as this model spells it."""
        return [llm.encode(text) for text in self.texts]

    def read(self, llm: LLM, scores: Sequence[Score]) -> DocumentValues:
        """The figures of the documents from their scores, in the same order."""
        raise NotImplementedError


@dataclass(frozen=True)
class NegativeLogLikelihood(ScoredMetric):
    """See `nll`."""

    name = "nll"
    unit = "nats/token"

    def read(self, llm: LLM, scores: Sequence[Score]) -> DocumentValues:
        counts = [len(score.token_ids) - 1 for score in scores]
        return _document_values([-score.total for score in scores], counts, sum(counts))


@dataclass(frozen=True)
class BitsPerByte(ScoredMetric):
    """See `bits_per_byte`."""

    name = "bits_per_byte"
    unit = "bits/byte"

    def read(self, llm: LLM, scores: Sequence[Score]) -> DocumentValues:
        pairs = zip(self.texts, scores, strict=True)
        sizes = [_scored_bytes(llm, text, score) for text, score in pairs]
        bits = [-score.total / math.log(2) for score in scores]
        return _document_values(bits, sizes, sum(len(score.token_ids) - 1 for score in scores))


@dataclass(frozen=True)
class AnswerLogprob(ScoredMetric):
    """See `logprob_of`."""

    answers: tuple[Prompt, ...]

    name = "logprob_of"
    unit = "nats/answer"

    def prompts(self, llm: LLM) -> list[list[int]]:
        return [ids for ids, _ in self._spelled(llm)]

    def read(self, llm: LLM, scores: Sequence[Score]) -> DocumentValues:
        starts = [start for _, start in self._spelled(llm)]
        spans = [score.logprobs[start:] for score, start in zip(scores, starts, strict=True)]
        totals = [float(np.sum(span, dtype=np.float64)) for span in spans]
        return _document_values(totals, [1] * len(totals), sum(map(len, spans)))

    def _spelled(self, llm: LLM) -> list[tuple[list[int], int]]:
        pairs = enumerate(zip(self.texts, self.answers, strict=True))
        return [_with_answer(llm, i, prompt, answer) for i, (prompt, answer) in pairs]


def nll(texts: Texts) -> ScoredMetric:
    """The mean negative log-likelihood of a token given those before it, in nats.

    The first token of a text has nothing before it and is not scored. exp of it is the perplexity.

    Raises:
        RequestError: there are no texts.
    """
    return NegativeLogLikelihood(as_documents("nll", texts))


def bits_per_byte(texts: Texts) -> ScoredMetric:
    """Bits that the model needs for a byte (UTF-8) of text; compares different tokenizers.

    The bytes of a first token that is not scored are not counted. Token ids are decoded.

    Raises:
        RequestError: there are no texts.
    """
    return BitsPerByte(as_documents("bits_per_byte", texts))


def logprob_of(prompts: Texts, answers: Texts) -> ScoredMetric:
    """The log-probability of an answer given its prompt, in nats: the mean over the pairs.

    Prompt and answer are spelled as one text; where a token spans both, it counts as the answer's.
    Token ids are joined as they are.

    Raises:
        RequestError: there are no prompts, or not an answer for each.
    """
    listed, given = as_documents("logprob_of", prompts), as_documents("logprob_of", answers)
    if len(listed) != len(given):
        raise RequestError(f"{len(given)} answers for {len(listed)} prompts; give one for each")
    return AnswerLogprob(listed, given)


def values_of(metric: UserMetric, llm: LLM, taps: Any) -> DocumentValues:
    """What a function gives; numbers are of documents with equal weights.

    Raises:
        RequestError: that is no number and no sequence of numbers.
    """
    found = metric(llm, taps)
    if isinstance(found, DocumentValues):
        return found
    try:
        values = None if found is None else np.asarray(found, np.float64)
    except (TypeError, ValueError):
        values = None
    if values is None or values.ndim > 1:
        raise RequestError(
            f"the metric gave {found!r}; it must give a number, or one for each document"
        )
    return _document_values(np.atleast_1d(values), [1] * values.size, None)


def as_documents(name: str, texts: Texts) -> tuple[Prompt, ...]:
    """The texts as a tuple of texts and tuples of ids.

    Raises:
        RequestError: there are none; `name` says of what.
    """
    documents = as_prompts(texts)
    if not documents:
        raise RequestError(f"{name} has no texts; give at least one")
    return tuple(text if isinstance(text, str) else tuple(text) for text in documents)


def _document_values(sums: Any, weights: Any, num_tokens: int | None) -> DocumentValues:
    return DocumentValues(np.asarray(sums, np.float64), np.asarray(weights, np.float64), num_tokens)


def _scored_bytes(llm: LLM, text: Prompt, score: Score) -> int:
    """UTF-8 bytes of a text without those of its first token, which is not scored."""
    tokenizer = llm.tokenizer
    if tokenizer is None:
        raise TokenizerError(
            "bits_per_byte counts bytes of text and this model was loaded without a tokenizer; "
            "use nll, or put tokenizer.json or tokenizer.model beside its weights"
        )
    whole = prompt_text(text)
    if whole is None:
        whole = tokenizer.decode(score.token_ids, skip_special_tokens=True)
    unscored = tokenizer.decode(score.token_ids[:1], skip_special_tokens=True)
    return len(whole.encode("utf-8", "replace")) - len(unscored.encode("utf-8", "replace"))


def _with_answer(llm: LLM, number: int, prompt: Prompt, answer: Prompt) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and where the answer begins."""
    before = llm.encode(prompt)
    if isinstance(prompt, str) and isinstance(answer, str):
        ids = llm.encode(prompt + answer)
        same = (a == b for a, b in zip(before, ids, strict=False))
        start = next((i for i, equal in enumerate(same) if not equal), min(len(before), len(ids)))
    elif isinstance(answer, str):
        if llm.tokenizer is None:
            llm.encode(answer)  # says what is missing
        assert llm.tokenizer is not None
        ids, start = before + llm.tokenizer.encode(answer, add_special_tokens=False), len(before)
    else:
        ids, start = before + list(answer), len(before)
    if start == len(ids):
        raise RequestError(f"answer {number} is {answer!r}, which has no tokens; give some text")
    if start == 0:
        raise RequestError(
            f"answer {number} begins at the first token, which nothing precedes; give it a prompt"
        )
    return ids, start
