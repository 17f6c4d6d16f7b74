"""Held-out bits per byte of the shipped model, beside `xz -9e` on the same text."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from corpus import held_out_documents, xz_bits_per_byte

import ferrum_jax as fj

WINDOW, STRIDE = 512, 256


def windows(ids: list[int]) -> Iterator[tuple[list[int], int]]:
    """`(tokens, first)`: windows that together score each token once, from `tokens[first]` on.

    All but a document's first tokens are scored with at least WINDOW - STRIDE before them.
    """
    ends = [*range(min(WINDOW, len(ids)), len(ids), STRIDE), len(ids)]
    yield ids[: ends[0]], 1
    for before, end in pairwise(ends):
        start = max(0, end - WINDOW)
        yield ids[start:end], before - start


def model_bits(llm: fj.LLM, texts: list[str]) -> float:
    """Bits that the model needs for the texts, each between BOS and EOS."""
    eos = llm.eos_token_ids[0]
    parts = [part for text in texts for part in windows([*llm.encode(text), eos])]
    scores = llm.score([tokens for tokens, _ in parts], progress=True)
    nats = sum(
        float(np.sum(score.logprobs[first:], dtype=np.float64))
        for score, (_, first) in zip(scores, parts, strict=True)
    )
    return -nats / math.log(2)


def evaluate(llm: fj.LLM) -> dict[str, float]:
    """Bits per byte of model and xz over the held-out documents, and by kind of document."""
    documents = held_out_documents()
    groups = {
        "all": [text for _, text in documents],
        "topics": [text for name, text in documents if name.startswith("topic/")],
    }
    result: dict[str, float] = {}
    for name, texts in groups.items():
        size = sum(len(text.encode()) for text in texts)
        result[f"{name}_bytes"] = size
        result[f"{name}_model_bits_per_byte"] = model_bits(llm, texts) / size
        result[f"{name}_xz_bits_per_byte"] = xz_bits_per_byte(texts)
    return result
