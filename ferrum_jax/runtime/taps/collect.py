"""Puts captured chunks together: arrays per text, folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ferrum_jax.runtime.activations import Activations, ActivationWriter
from ferrum_jax.runtime.record import environment
from ferrum_jax.runtime.taps.capture import CapturedChunk, Values, joined
from ferrum_jax.types import DataType, RequestError


def collect(
    chunks: Iterable[CapturedChunk],
    count: int,
    *,
    positions: Any = None,
    dtype: str | None = None,
    to: str | Path | None = None,
    progress: bool = False,
) -> list[Values] | Activations:
    """Each text's activations, the texts in their order; with `to`, written to a folder.

    Raises:
        RequestError: positions that a text does not have, or a folder that is in use.
        ConfigError: a dtype that is none.
    """
    kind = None if dtype is None else DataType.parse(dtype)
    texts = (_chosen(text, positions) for text in _texts(chunks, count, progress))
    if to is not None:
        return _written(texts, Path(to), kind)
    found: dict[int, Values] = {}
    for text in texts:
        found[text.prompt] = (
            text.values
            if kind is None
            else jax.tree.map(lambda x: x.astype(jnp.dtype(kind.value)), text.values)
        )
    return [found[i] for i in range(count)]


@dataclass(frozen=True)
class _Text:
    prompt: int
    token_ids: np.ndarray
    positions: np.ndarray
    values: Values


def _texts(chunks: Iterable[CapturedChunk], count: int, progress: bool) -> Iterator[_Text]:
    """Whole texts, each as soon as its last chunk has come."""
    parts: dict[int, list[CapturedChunk]] = {}
    with tqdm(total=count, unit="text", disable=not progress) as bar:
        for chunk in chunks:
            parts.setdefault(chunk.prompt, []).append(chunk)
            if chunk.done:
                mine = parts.pop(chunk.prompt)
                ids = np.asarray([i for part in mine for i in part.token_ids], np.int32)
                yield _Text(
                    prompt=chunk.prompt,
                    token_ids=ids,
                    positions=np.arange(len(ids)),
                    values=joined([part.values for part in mine]),
                )
                bar.update()


def _chosen(text: _Text, positions: Any) -> _Text:
    """A text's chosen positions; of one index, the axis stays."""
    if positions is None:
        return text
    count = len(text.token_ids)
    try:
        if isinstance(positions, bool) or np.ndim(positions) > 1:
            raise TypeError("no positions")
        index = np.arange(count)[positions]
    except (IndexError, TypeError) as error:
        raise RequestError(
            f"positions is {positions!r}; text {text.prompt} has positions 0 to {count - 1}, give "
            "an index, a list of them or a slice"
        ) from error
    index = np.atleast_1d(index)
    values = jax.tree.map(lambda x: x[index], text.values)
    return _Text(text.prompt, text.token_ids, index, values)


def _written(texts: Iterator[_Text], path: Path, kind: DataType | None) -> Activations:
    """Stream the texts to a folder, and open it."""
    first = next(texts, None)
    if first is None:
        raise RequestError("there are no texts; give at least one")
    writer = ActivationWriter(
        path,
        sites=tuple(first.values),
        layers=tuple(sorted({layer for site in first.values.values() for layer in site})),
        dtype=None if kind is None else str(kind),
        record=environment(),
    )
    with writer:
        for text in chain([first], texts):
            writer.add(text.prompt, text.token_ids.tolist(), text.values, text.positions)
    return Activations.open(path)
