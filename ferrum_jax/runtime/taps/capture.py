"""Activations of served requests, on their way from the steps to whoever asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ferrum_jax.types import ModelConfig, RequestError, Taps

Values = dict[str, dict[int, np.ndarray]]
"""Activations `[n, ...]` by site and layer."""


class CapturedPart(NamedTuple):
    """What a step captured of a request: the tokens from position `start` on."""

    start: int
    token_ids: tuple[int, ...]
    values: Values


@dataclass(frozen=True)
class CapturedChunk:
    """What a step captured of one prompt: the activations of tokens from `start` on."""

    prompt: int
    """Which of the prompts that were given it is of."""
    start: int
    token_ids: tuple[int, ...]
    values: Values = field(repr=False)
    done: bool = False
    """Whether it is the prompt's last."""

    def __len__(self) -> int:
        return len(self.token_ids)


class CaptureBuffer:
    """What was captured of one request and not handed on yet; a token counts once.

    A preempted request computes tokens again: what comes a second time is dropped.
    """

    def __init__(self, taps: Taps):
        self._taps = taps
        self._next = 0
        self._parts: list[CapturedPart] = []

    def put(self, start: int, token_ids: Sequence[int], values: Values) -> None:
        """Take a chunk's share of a step's captures: what this request asked for, copied."""
        count, seen = len(token_ids), max(0, self._next - start)
        if seen >= count:
            return
        wanted = {
            site: {
                layer: self._cut(site, x[seen:], start + count)
                for layer, x in values[site].items()
                if self._taps.captures(site, layer)
            }
            for site in self._taps.capture
        }
        self._parts.append(CapturedPart(start + seen, tuple(token_ids[seen:]), wanted))
        self._next = start + count

    def take(self) -> list[CapturedPart]:
        """What has come since the last call, in order."""
        parts, self._parts = self._parts, []
        return parts

    @staticmethod
    def _cut(site: str, x: np.ndarray, num_keys: int) -> np.ndarray:
        """A copy that does not hold the whole step's array; of `pattern` the keys there are."""
        return np.array(x[..., :num_keys] if site == "pattern" else x)


def joined(parts: Sequence[Values]) -> Values:
    """Chunks of one prompt, in order, as one; the keys of `pattern` are filled up with zeros."""
    return {
        site: {
            layer: _concatenated(site, [part[site][layer] for part in parts]) for layer in layers
        }
        for site, layers in parts[0].items()
    }


def _concatenated(site: str, arrays: list[np.ndarray]) -> np.ndarray:
    if site == "pattern":
        keys = max(x.shape[-1] for x in arrays)
        arrays = [np.pad(x, ((0, 0), (0, 0), (0, keys - x.shape[-1]))) for x in arrays]
    return np.concatenate(arrays)


def capture_taps(
    config: ModelConfig, sites: str | Sequence[str], layers: int | Sequence[int] | None
) -> Taps:
    """Taps that capture; a site or a layer may be given alone.

    Raises:
        RequestError: no site, no layer, or a layer that is no integer.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    if not names:
        raise RequestError("no sites are named; name at least one, such as 'resid_post'")
    if layers is None:
        return Taps(capture=tuple(dict.fromkeys(names)))
    numbers: list[Any] = [layers] if isinstance(layers, int | np.integer) else list(layers)
    if not numbers:
        raise RequestError("no layers are named; leave layers out for all")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise RequestError(f"layers holds {number!r}; give layer numbers")
    chosen = tuple(sorted({int(number) for number in numbers}))
    return Taps(capture=tuple(dict.fromkeys(names)), layers=chosen)
