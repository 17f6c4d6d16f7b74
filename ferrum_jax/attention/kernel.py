"""Which attention a step runs: decided once, from what was asked for and the device."""

from __future__ import annotations

from collections.abc import Callable

from ferrum_jax.attention.paged import PagedMeta, paged_attention
from ferrum_jax.interfaces import Attend
from ferrum_jax.types import UnsupportedError

BindAttention = Callable[[PagedMeta], Attend]


def choose_attention(name: str, platform: str) -> BindAttention:
    """The paged attention of an `EngineConfig.attention`, to be bound to each step's layout.

    Raises:
        UnsupportedError: that implementation does not exist in this version.
    """
    if name in ("auto", "xla"):
        return paged_attention
    raise UnsupportedError(
        f"attention={name!r} on {platform} is not built in this version; use 'auto' or 'xla'"
    )
