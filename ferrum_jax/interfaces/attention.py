"""How a decoder layer attends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jaxtyping import Array, Float, Int

from ferrum_jax.types import AttentionConfig, LayerCache


class Attend(Protocol):
    """Causal attention of T ragged tokens over themselves and what their sequences have cached."""

    def __call__(
        self,
        q: Float[Array, "T N H"],
        k: Float[Array, "T K H"],
        v: Float[Array, "T K V"],
        layer_cache: LayerCache | None,
        meta: Int[Array, " T"],
        spec: AttentionConfig,
        *,
        sinks: Float[Array, " N"] | None = None,
        tap_pattern: Callable[[Array], Array] | None = None,
        cached: bool = False,
    ) -> tuple[Float[Array, "T N V"], LayerCache | None]:
        """The attention output, and the cache with this step's keys and values written.

        `meta` holds the tokens' positions; a paged implementation is bound to its step's page
        tables before. `tap_pattern`, where given, reads or changes the attention weights
        `[T, N, S]` (S keys); an implementation that never forms them raises `UnsupportedError`.
        `cached` says that this step's keys and values are in the cache already.
        """
        ...
