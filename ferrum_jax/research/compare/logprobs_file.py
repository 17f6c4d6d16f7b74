"""Writes a file with another system's log-probabilities, for `fj.compare` to read.

Imports numpy only, and nothing of this project: load this file by its path where jax is not
installed, as `tests/parity/make_logprobs.py` does beside torch.

The file is a safetensors file. Documents stand end to end; a row is what was predicted for one
token given those before it, so a document of T tokens has T - 1 rows, and M is their sum:

    tokens       int32   [sum of T]   token ids of all documents
    lengths      int32   [documents]  T of each
    chosen       float32 [M]          log-probability of the token that follows
    top          int32   [M]          the likeliest id
    top_logprob  float32 [M]          its log-probability

and either the whole distributions,

    logprobs     float16 or float32 [M, V]

or, where V is large, the k likeliest ids and the log-probability of all others together:

    ids          int32              [M, k]   the likeliest first
    logprobs     float16 or float32 [M, k]
    tail         float32            [M]

The metadata are texts: `format` (`FORMAT`), `name`, `vocab_size`, `dtype` and `top_k` (0: whole).
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "ferrum_jax logprobs 1"
BLOCK_ROWS = 64
"""Rows that are normalised at a time, in float64."""
TYPE_NAMES = {"int32": "I32", "float32": "F32", "float16": "F16"}


def write_logprobs(
    path: str | os.PathLike[str],
    documents: Sequence[Sequence[int]],
    logits: Iterable[Any],
    *,
    vocab_size: int,
    name: str,
    dtype: str = "float32",
    top_k: int | None = None,
) -> None:
    """Write a file, one document after another; one document's logits are in memory at a time.

    Args:
        documents: token ids of each, at least two.
        logits: for each document an array `[T, V]` (a last row is not read, so `[T - 1, V]` will
            do); row t predicts token t + 1. Logits or log-probabilities: rows are normalised, in
            float64.
        name: what the report calls this system.
        dtype: of the distributions, `float32` or `float16`. What is stored of the token that
            follows and of the likeliest one is float32 in any case.
        top_k: keep so many ids of each row; None: all.

    Raises:
        ValueError: a document, a number of arrays, a shape or an argument that does not fit.
            (No `FerrumError`: this file imports nothing of the project.)
        OSError: the folder is missing or cannot be written.
    """
    _check(documents, vocab_size, dtype, top_k)
    target = Path(path)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    meta = {"format": FORMAT, "name": name, "vocab_size": str(vocab_size), "dtype": dtype}
    meta["top_k"] = str(top_k or 0)
    try:
        arrays = _mapped(beside, _layout(documents, vocab_size, dtype, top_k), meta)
        arrays["tokens"][:] = np.concatenate([np.asarray(ids, np.int32) for ids in documents])
        arrays["lengths"][:] = [len(ids) for ids in documents]
        _fill(arrays, documents, logits, vocab_size, top_k)
        for array in arrays.values():
            array.flush()
        del arrays
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _check(
    documents: Sequence[Sequence[int]], vocab_size: int, dtype: str, top_k: int | None
) -> None:
    if not documents:
        raise ValueError("there are no documents; give at least one")
    for number, ids in enumerate(documents):
        if len(ids) < 2:
            raise ValueError(f"document {number} has {len(ids)} tokens; give at least 2")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise ValueError(
                f"document {number} has ids from {min(ids)} to {max(ids)}; the vocabulary has 0 "
                f"to {vocab_size - 1}"
            )
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype is {dtype!r}; choose float32 or float16")
    if top_k is not None and not 1 <= top_k < vocab_size:
        raise ValueError(f"top_k is {top_k}; choose 1 to {vocab_size - 1}, or None for all")


def _layout(
    documents: Sequence[Sequence[int]], vocab_size: int, dtype: str, top_k: int | None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of every array; float16 comes last, so that all stay aligned."""
    tokens = sum(map(len, documents))
    rows = tokens - len(documents)
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "tokens": ("int32", (tokens,)),
        "lengths": ("int32", (len(documents),)),
        "chosen": ("float32", (rows,)),
        "top": ("int32", (rows,)),
        "top_logprob": ("float32", (rows,)),
    }
    if top_k is not None:
        layout |= {"ids": ("int32", (rows, top_k)), "tail": ("float32", (rows,))}
    return layout | {"logprobs": (dtype, (rows, top_k or vocab_size))}


def _mapped(
    path: Path, layout: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> dict[str, np.memmap]:
    """A new safetensors file of this layout, its arrays mapped for writing."""
    header: dict[str, Any] = {"__metadata__": metadata}
    starts, end = {}, 0
    for key, (dtype, shape) in layout.items():
        starts[key], end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[key] = {
            "dtype": TYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [starts[key], end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return {
        key: np.memmap(path, dtype, "r+", 8 + len(text) + starts[key], shape)
        for key, (dtype, shape) in layout.items()
    }


def _fill(
    arrays: dict[str, np.memmap],
    documents: Sequence[Sequence[int]],
    logits: Iterable[Any],
    vocab_size: int,
    top_k: int | None,
) -> None:
    row = 0
    given = iter(logits)
    for number, ids in enumerate(documents):
        values = next(given, None)
        if values is None:
            raise ValueError(f"logits has {number} arrays for {len(documents)} documents")
        if np.shape(values) not in ((len(ids), vocab_size), (len(ids) - 1, vocab_size)):
            raise ValueError(
                f"the logits of document {number} have shape {np.shape(values)}; its "
                f"{len(ids)} tokens need ({len(ids)}, {vocab_size})"
            )
        count = len(ids) - 1
        for first in range(0, count, BLOCK_ROWS):
            block = np.asarray(values[first : min(first + BLOCK_ROWS, count)], np.float64)
            targets = np.asarray(ids[first + 1 : first + 1 + len(block)])
            for key, part in _rows(block, targets, top_k).items():
                arrays[key][row : row + len(block)] = part
            row += len(block)
    if next(given, None) is not None:
        raise ValueError(f"logits has more arrays than the {len(documents)} documents")


def _rows(logits: np.ndarray, targets: np.ndarray, top_k: int | None) -> dict[str, np.ndarray]:
    """What is stored of rows `[n, V]`, float64."""
    logprobs = logits - _logsumexp(logits)[:, None]
    every = np.arange(len(logits))
    top = logprobs.argmax(axis=1)
    found = {"chosen": logprobs[every, targets], "top": top, "top_logprob": logprobs[every, top]}
    if top_k is None:
        return found | {"logprobs": logprobs}
    ids = np.argsort(-logprobs, axis=1, kind="stable")[:, :top_k]
    best = np.take_along_axis(logprobs, ids, axis=1)
    np.put_along_axis(logprobs, ids, -np.inf, axis=1)
    return found | {"ids": ids, "logprobs": best, "tail": _logsumexp(logprobs)}


def _logsumexp(x: np.ndarray) -> np.ndarray:
    highest = x.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        summed = np.log(np.exp(x - highest).sum(axis=1)) + highest[:, 0]
    return np.where(np.isfinite(highest[:, 0]), summed, highest[:, 0])
