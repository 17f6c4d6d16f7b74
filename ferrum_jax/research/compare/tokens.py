"""Runs both sides over the documents and keeps a few numbers for every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from ferrum_jax.research.compare.documents import groups_of
from ferrum_jax.research.compare.matching import Piece, matched
from ferrum_jax.research.compare.rows import RowValues, compare_rows
from ferrum_jax.research.compare.side import Side, share_engine


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What was measured of each scored token, documents one after another. Logarithms are natural.

    A document's tokens are scored from position `min_context` on.
    """

    document: Int[np.ndarray, " N"]
    position: Int[np.ndarray, " N"]
    """in the document, from 0"""
    token: Int[np.ndarray, " N"]
    nll_a: Float[np.ndarray, " N"]
    """-log p_a(token | tokens before it)"""
    nll_b: Float[np.ndarray, " N"]
    kld: Float[np.ndarray, " N"]
    """KL(a || b) of the distributions of this token, nats"""
    top_a: Int[np.ndarray, " N"]
    """the id that a finds likeliest"""
    top_b: Int[np.ndarray, " N"]
    p_top_a: Float[np.ndarray, " N"]
    """p_a(top_a)"""
    p_top_b: Float[np.ndarray, " N"]
    """p_b(top_b)"""

    def __len__(self) -> int:
        return len(self.token)

    @property
    def delta_p(self) -> Float[np.ndarray, " N"]:
        """float64: p_b - p_a of the token."""
        return np.exp(-self.nll_b.astype(np.float64)) - np.exp(-self.nll_a.astype(np.float64))

    @property
    def same_top(self) -> np.ndarray:
        """bool: whether both sides find the same id likeliest."""
        return self.top_a == self.top_b


def measure(
    a: Side,
    b: Side,
    documents: Sequence[tuple[int, ...]],
    *,
    min_context: int,
    max_held_bytes: int,
    progress: bool,
) -> TokenTable:
    """Compare both sides at every scored token.

    Documents run in groups whose float32 distributions take at most `max_held_bytes` for one side.
    Held at a time are those of one side of a group, where both sides step one engine; otherwise
    the two run in turns, and a long document takes no more than the steps of both engines.
    """
    counts = [len(ids) - min_context for ids in documents]
    firsts = np.concatenate([[0], np.cumsum(counts)])
    columns = _columns(documents, min_context)
    in_turns = not share_engine(a, b)
    with tqdm(total=sum(map(len, documents)), unit="token", disable=not progress) as bar:
        for group in groups_of(documents, max_held_bytes, a.vocab_size):
            streams = (a.predictions(group), b.predictions(group))
            for pair in matched(*streams, in_turns=in_turns):
                _put(columns, pair, documents, firsts, min_context)
                bar.update(pair[0].num_tokens)
            bar.update(len(group))  # their last tokens predict nothing
    return TokenTable(**columns)


def _columns(documents: Sequence[tuple[int, ...]], min_context: int) -> dict[str, np.ndarray]:
    counts = [len(ids) - min_context for ids in documents]
    known = {
        "document": np.repeat(np.arange(len(documents), dtype=np.int32), counts),
        "position": np.concatenate(
            [np.arange(min_context, len(ids), dtype=np.int32) for ids in documents]
        ),
        "token": np.concatenate([np.asarray(ids[min_context:], np.int32) for ids in documents]),
    }
    ids = ("top_a", "top_b")
    return known | {
        name: np.zeros(sum(counts), np.int32 if name in ids else np.float32)
        for name in RowValues._fields
    }


def _put(
    columns: dict[str, np.ndarray],
    pair: tuple[Piece, Piece],
    documents: Sequence[tuple[int, ...]],
    firsts: np.ndarray,
    min_context: int,
) -> None:
    """Compare a pair of pieces, and put what is kept into its place."""
    # The row at position t predicts token t + 1.
    skipped = min(max(0, min_context - 1 - pair[0].start), pair[0].num_tokens)
    left, right = (piece.part(skipped, piece.num_tokens) for piece in pair)
    if not left.num_tokens:
        return
    stop = left.start + left.num_tokens + 1
    targets = np.asarray(documents[left.document][left.start + 1 : stop], np.int32)
    found = compare_rows(left.values, right.values, targets)
    row = int(firsts[left.document]) + left.start + 1 - min_context
    for name, values in found._asdict().items():
        columns[name][row : row + len(values)] = values
