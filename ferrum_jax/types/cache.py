"""The paged KV-cache as a value, and the host's account of who owns which page."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
from flax import struct

TRASH_PAGE = 0
"""Padding writes its keys and values here; no sequence ever owns it."""


@struct.dataclass
class LayerCache:
    """Keys and values of one layer: two arrays `[P, page_size, K, H]`."""

    k_pages: jax.Array
    v_pages: jax.Array


@struct.dataclass
class KVCache:
    """One `LayerCache` per layer. A step takes the cache and returns the next one."""

    layers: tuple[LayerCache, ...]

    @property
    def num_pages(self) -> int:
        return self.layers[0].k_pages.shape[0]

    @property
    def page_size(self) -> int:
        return self.layers[0].k_pages.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all pages of all layers."""
        return sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(self))


@dataclass
class BlockTable:
    """The pages of one sequence, in the order of its tokens."""

    pages: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pages)
