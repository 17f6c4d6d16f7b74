"""The tokens that differ most, as a reader sees them: in their context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.research.compare.tokens import TokenTable

CONTEXT_TOKENS = 16


@dataclass(frozen=True)
class DifferingToken:
    """One token, and what both sides made of it. Texts are ids where there is no tokenizer."""

    document: int
    position: int
    """in the document, from 0"""
    context: str
    """what stands before it, cut on the left"""
    token: str
    kld: float
    """nats"""
    p_a: float
    """of the token"""
    p_b: float
    top_a: str
    """what a finds likeliest"""
    p_top_a: float
    top_b: str
    p_top_b: float


def worst_tokens(
    tokens: TokenTable,
    documents: Sequence[tuple[int, ...]],
    tokenizer: Tokenizer | None,
    count: int,
) -> tuple[DifferingToken, ...]:
    """The tokens of the largest KLD, the largest first; those that do not differ are left out."""
    order = np.argsort(-tokens.kld, kind="stable")[:count]
    return tuple(_token(tokens, int(i), documents, tokenizer) for i in order if tokens.kld[i] > 0)


def _token(
    tokens: TokenTable, i: int, documents: Sequence[tuple[int, ...]], tokenizer: Tokenizer | None
) -> DifferingToken:
    document, position = int(tokens.document[i]), int(tokens.position[i])
    before = documents[document][max(0, position - CONTEXT_TOKENS) : position]
    return DifferingToken(
        document=document,
        position=position,
        context=_text(before, tokenizer),
        token=_one(int(tokens.token[i]), tokenizer),
        kld=float(tokens.kld[i]),
        p_a=float(np.exp(-tokens.nll_a[i])),
        p_b=float(np.exp(-tokens.nll_b[i])),
        top_a=_one(int(tokens.top_a[i]), tokenizer),
        p_top_a=float(tokens.p_top_a[i]),
        top_b=_one(int(tokens.top_b[i]), tokenizer),
        p_top_b=float(tokens.p_top_b[i]),
    )


def _text(ids: Sequence[int], tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids))
    return tokenizer.decode(ids, skip_special_tokens=False)


def _one(token: int, tokenizer: Tokenizer | None) -> str:
    """A token as its vocabulary spells it; its id where a vocabulary is padded."""
    known = tokenizer is not None and token < tokenizer.vocab_size
    return tokenizer.token_text(token) if tokenizer is not None and known else str(token)
