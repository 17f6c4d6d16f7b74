"""The paged KV-cache as a value, and the host's account of who owns which page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from flax import struct

TRASH_PAGE = 0
"""Padding writes its keys and values here; no sequence ever owns it."""


@struct.dataclass
class LayerCache:
    """Keys and values of one layer: arrays `[P, page_size, K, H]`, and their scales if quantised.

    Every leaf has the pages as its first axis. Quantised pages hold int8, or float8_e4m3fn as its
    bits (uint8); an element is worth its value times the scale of its token and kv head.
    """

    k_pages: jax.Array
    v_pages: jax.Array | None
    """None (no leaf) where a value is the beginning of its key (`values_in_keys`)"""
    k_scales: jax.Array | None = None
    """float32 `[P, page_size, K]`; None (no leaf) when the keys are not quantised"""
    v_scales: jax.Array | None = None
    """the same for the values"""


@struct.dataclass
class KVCache:
    """The pages of every attention layer, and the states of every recurrent one.

    A step takes the cache and returns the next one. A layer without keys and values of its own has
    None among `layers`, one without a state None among `states`.
    """

    layers: tuple[LayerCache | None, ...]
    states: tuple[dict[str, jax.Array] | None, ...] = ()
    """By name float32 `[S + 1, ...]`, a row for each slot; the last one is the padding's. A row is
    read as zeros by a sequence's first token, so it needs no clearing. Empty: no layer has any."""
    num_pages: int = struct.field(pytree_node=False, default=0)
    page_size: int = struct.field(pytree_node=False, default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages of all layers, and of all states."""
        return sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(self))


@dataclass(slots=True)
class BlockTable:
    """The pages of one sequence, in the order of its tokens."""

    pages: list[int] = field(default_factory=list)
    tail_shared: bool = False
    """Whether the page that is written next may belong to others too, or be cached."""
    room: int = 0
    """Tokens that its pages hold; 0 while one that is still to be written may be others' too."""
    digests: list[bytes] = field(default_factory=list)
    """Chained content hashes of the leading full pages, as far as they were needed."""
    num_cached: int = 0
    """Leading pages that were offered to the prefix cache, or came from it."""
    anchor: Any = None
    """The prefix cache's own note of the last of them."""

    def __len__(self) -> int:
        return len(self.pages)
