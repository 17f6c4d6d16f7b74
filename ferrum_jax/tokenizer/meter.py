"""What rendering one chat template may cost."""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
from typing import Any

from ferrum_jax.types.errors import TokenizerError

MAX_SECONDS = 3.0
MAX_TEXT = 2**23  # characters of one text, and of a container with all that it holds
MAX_WORK = 2**28  # characters and items that all steps of one rendering make together
MAX_INT_BITS = 4096

_CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


class Meter:
    """Counts the time, the steps and the sizes of one rendering; raises TokenizerError beyond."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + MAX_SECONDS
        self._work = 0

    def tick(self, cost: int = 1) -> None:
        """Count one step that makes `cost` characters or items."""
        self._work += cost
        if self._work > MAX_WORK:
            raise _refuse(f"makes more than {MAX_WORK} characters on its way")
        if time.monotonic() > self._deadline:
            raise _refuse(f"takes longer than {MAX_SECONDS:g} seconds")

    def hold(self, value: Any) -> Any:
        """Count a value that a step has made, and give it back."""
        if isinstance(value, int):
            self.check_bits(value.bit_length())
            self.tick()
            return value
        weight = self.weigh(value)
        self.tick(len(value) if isinstance(value, (str, bytes, *_CONTAINERS)) else min(weight, 1))
        return value

    def weigh(self, value: Any) -> int:
        """Characters and items in a value, those of shared parts as often as they occur.

        Bounding this bounds what `str`, `==`, hashing and JSON make of the value, also where a
        small structure of shared lists unfolds into an enormous one.
        """
        weight, stack = 0, [value]
        while stack:
            item = stack.pop()
            weight += len(item) if isinstance(item, (str, bytes, Mapping, *_CONTAINERS)) else 0
            weight += 1
            self.check_size(weight)
            if isinstance(item, Mapping):
                stack += item.keys()
                stack += item.values()
            elif isinstance(item, _CONTAINERS):
                stack += item
            if not weight & 0x3F:
                self.tick(0)
        return weight

    def check_size(self, size: int) -> None:
        """Refuse a text or a container before it is made."""
        if size > MAX_TEXT:
            raise _refuse(f"makes a text or a list of more than {MAX_TEXT} characters or items")

    def check_bits(self, bits: int) -> None:
        """Refuse an integer too long to compute with."""
        if bits > MAX_INT_BITS:
            raise _refuse(f"makes an integer of more than {MAX_INT_BITS} bits")

    def join(self, separator: str, parts: Iterable[Any]) -> str:
        """`separator.join(map(str, parts))`, measured while the parts come in."""
        texts, size = [], 0
        for part in parts:
            texts.append(str(part))
            size += len(texts[-1]) + len(separator)
            self.check_size(size - len(separator))
            self.tick()
        return self.hold(separator.join(texts))


def _refuse(reason: str) -> TokenizerError:
    return TokenizerError(
        f"the chat template {reason}; use another template, or pass the prompt as text"
    )
