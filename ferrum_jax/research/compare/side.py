"""What is compared: a model that runs in the engine, perhaps edited, or saved log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import jax

from ferrum_jax.interfaces import Tokenizer
from ferrum_jax.research.compare.matching import Piece
from ferrum_jax.research.compare.saved import SavedLogprobs
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import RequestError, Taps

Documents = Mapping[int, tuple[int, ...]]
"""Token ids by a document's number."""
SAVED_ROWS = 128
"""Rows that are read from a file at a time."""


@dataclass(frozen=True, eq=False)
class ModelSide:
    """An LLM and the edits that it runs with."""

    llm: LLM
    taps: Taps | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids that it predicts."""
        return self.llm.config.vocab_size

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where it takes ids only."""
        return self.llm.tokenizer

    def activations(self, documents: Documents, sites: Sequence[str]) -> Iterator[Piece]:
        """Pieces with `{site: {layer: [n, ...]}}`, as the engine's steps land."""
        numbers = list(documents)
        prompts = [list(ids) for ids in documents.values()]
        for chunk in self.llm.iter_capture(prompts, sites=sites, taps=self.taps):
            yield Piece(numbers[chunk.prompt], chunk.start, chunk.values)

    def predictions(self, documents: Documents) -> Iterator[Piece]:
        """Pieces with `logits` `[n, V]`; what follows a document's last token is left out."""
        layer = self.llm.config.num_layers
        for piece in self.activations(documents, ("logits",)):
            values = {"logits": piece.values["logits"][layer]}
            count = min(piece.num_tokens, len(documents[piece.document]) - 1 - piece.start)
            if count > 0:
                yield Piece(piece.document, piece.start, values).part(0, count)


@dataclass(frozen=True, eq=False)
class SavedSide:
    """Another system's log-probabilities."""

    saved: SavedLogprobs

    tokenizer = None

    @property
    def vocab_size(self) -> int:
        """Number of ids that it predicts."""
        return self.saved.vocab_size

    def predictions(self, documents: Documents) -> Iterator[Piece]:
        """Pieces with the arrays of `SavedLogprobs.rows`."""
        for number, ids in documents.items():
            document = self.saved.find(ids)
            assert document is not None
            for start in range(0, len(ids) - 1, SAVED_ROWS):
                stop = min(start + SAVED_ROWS, len(ids) - 1)
                yield Piece(number, start, self.saved.rows(document, start, stop))


Side = ModelSide | SavedSide


def as_side(name: str, given: Any) -> Side:
    """A side from an LLM, `(llm, taps)`, a `SavedLogprobs` or a file's path.

    Raises:
        RequestError: it is none of these, or the file holds something else.
    """
    if isinstance(given, ModelSide | SavedSide):
        return given
    if isinstance(given, LLM):
        return ModelSide(given)
    if isinstance(given, SavedLogprobs):
        return SavedSide(given)
    if isinstance(given, str | PathLike):
        return SavedSide(SavedLogprobs(given))
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], LLM):
        llm, taps = given
        if taps is None or isinstance(taps, Taps):
            return ModelSide(llm, taps)
    raise RequestError(
        f"{name} is {_short(given)}; give an fj.LLM, (llm, taps) with what fj.edits makes, a "
        "SavedLogprobs, or the path of its file"
    )


def check_pair(a: Side, b: Side) -> None:
    """Whether two sides can be compared at all.

    Raises:
        RequestError: their vocabularies differ, or both hold only the likeliest ids.
    """
    if a.vocab_size != b.vocab_size:
        raise RequestError(
            f"the vocabulary of a has {a.vocab_size} ids and that of b {b.vocab_size}; only "
            "distributions over the same ids can be compared"
        )
    if all(isinstance(side, SavedSide) and side.saved.top_k for side in (a, b)):
        raise RequestError(
            "both sides are files with the likeliest ids only, which are other ids in each; write "
            "one of them with top_k=None"
        )


def share_engine(a: Side, b: Side) -> bool:
    """Whether both sides are stepped by one engine."""
    return isinstance(a, ModelSide) and isinstance(b, ModelSide) and a.llm is b.llm


def tokenizer_of(*sides: Side) -> Tokenizer | None:
    """The first tokenizer that a side has."""
    return next((side.tokenizer for side in sides if side.tokenizer is not None), None)


def weights_of(side: ModelSide) -> list[jax.Array]:
    """All its weights, in the order of the pytree."""
    return jax.tree.leaves(side.llm.params)


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."
