"""`SavedLogprobs`: another system's log-probabilities as one side of a comparison."""

from __future__ import annotations

from functools import cached_property
from os import PathLike, fspath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ferrum_jax.research.compare.logprobs_file import FORMAT
from ferrum_jax.types import RequestError

ROW_ARRAYS = ("chosen", "top", "top_logprob", "logprobs")
TOP_K_ARRAYS = ("ids", "tail")


class SavedLogprobs:
    """A file that `write_logprobs` wrote; see `logprobs_file` for its format.

    Opening it reads the token ids; distributions are read by document, when they are needed.

    What a file with the k likeliest ids allows: perplexity, delta-p and same-top are exact, since
    the file holds the token that follows and the likeliest one. The KLD is that of k ids and one
    bucket for all others, which is at most the KLD of the whole distributions: a lower bound
    (data-processing inequality, Cover and Thomas 2006, section 2.8).
    """

    def __init__(self, path: str | PathLike[str]):
        """Open a file.

        Raises:
            RequestError: there is none, or it is no file of this format.
        """
        self.path = fspath(path)
        try:
            self._file = safe_open(self.path, framework="numpy")
        except (OSError, SafetensorError) as error:
            raise self._wrong(f"{type(error).__name__}: {error}") from error
        metadata = self._file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise self._wrong(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        self.name: str = metadata.get("name", "")
        self.dtype: str = metadata.get("dtype", "")
        try:
            self.vocab_size = int(metadata["vocab_size"])
            self.top_k = int(metadata["top_k"]) or None
        except (KeyError, ValueError) as error:
            raise self._wrong(f"its metadata are {metadata}") from error
        self._check_shapes()

    @cached_property
    def documents(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of each document."""
        tokens = self._file.get_tensor("tokens").tolist()
        ends = np.cumsum(self._lengths).tolist()
        return tuple(tuple(tokens[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True))

    def find(self, ids: tuple[int, ...]) -> int | None:
        """The number of the document with just these token ids; None: there is none."""
        return self._numbers.get(ids)

    def rows(self, document: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Arrays `[stop - start, ...]` of what was predicted after tokens `start` to `stop`.

        float16 becomes float32.
        """
        first = int(self._first_rows[document])
        names = ROW_ARRAYS if self.top_k is None else ROW_ARRAYS + TOP_K_ARRAYS
        found = {name: self._file.get_slice(name)[first + start : first + stop] for name in names}
        return {k: x.astype(np.float32) if x.dtype.kind == "f" else x for k, x in found.items()}

    def __repr__(self) -> str:
        kept = "whole distributions" if self.top_k is None else f"the {self.top_k} likeliest ids"
        count = len(self._lengths)
        return (
            f"SavedLogprobs({self.path!r}: {self.name}, {count} document"
            f"{'' if count == 1 else 's'}, {kept} of {self.vocab_size:,}, {self.dtype})"
        )

    @cached_property
    def _lengths(self) -> np.ndarray:
        return self._file.get_tensor("lengths").astype(np.int64)

    @cached_property
    def _first_rows(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._lengths - 1)])

    @cached_property
    def _numbers(self) -> dict[tuple[int, ...], int]:
        return {ids: number for number, ids in enumerate(self.documents)}

    def _check_shapes(self) -> None:
        wanted = {"tokens", "lengths", *ROW_ARRAYS, *(TOP_K_ARRAYS if self.top_k else ())}
        if missing := wanted - set(self._file.keys()):
            raise self._wrong(f"it lacks {', '.join(sorted(missing))}")
        shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in sorted(wanted)}
        rows = int((self._lengths - 1).sum())
        width = self.top_k or self.vocab_size
        right: dict[str, Any] = dict.fromkeys(wanted, (rows,)) | {"logprobs": (rows, width)}
        right |= {"tokens": (int(self._lengths.sum()),), "lengths": self._lengths.shape}
        if self.top_k:
            right["ids"] = (rows, width)
        wrong = [f"{k} has shape {shapes[k]}, not {v}" for k, v in right.items() if shapes[k] != v]
        if wrong or self._lengths.size == 0 or self._lengths.min() < 2:
            raise self._wrong("; ".join(wrong) or "it has a document of fewer than 2 tokens")

    def _wrong(self, what: str) -> RequestError:
        return RequestError(
            f"{self.path} holds no saved log-probabilities ({what}); write the file with "
            "write_logprobs, and load a model with fj.LLM.load"
        )
