"""Low-rank changes of a model's weights, as one request or all requests of a step carry them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class LowRank:
    """A change of one parameter: `a b`, the ranks of several adapters side by side.

    I inputs, O outputs, R ranks of all, n adapters, E experts.
    """

    a: Any
    """[I, R], or [E, I, R]"""
    b: Any
    """[R, O...], or [E, R, O]"""
    scales: Any
    """float32 [n, R]: what an adapter multiplies a rank by; zero for the ranks of others"""


@struct.dataclass
class Adapters:
    """Changes of weights, and which rows (requests) they act for.

    A request carries one row and one adapter; `a + b` of two of them is one with both changes.
    """

    changes: dict[str, LowRank]
    """By the parameter's path, as in `layers.3.attention.qkv`."""
    weights: Any
    """float32 [rows, n]"""
    digest: str = struct.field(pytree_node=False, default="")
    """Of its contents; which adapters those are, for a whole step."""

    def __add__(self, other: Adapters) -> Adapters:
        if not isinstance(other, Adapters):
            return NotImplemented
        both = [*self.changes, *(path for path in other.changes if path not in self.changes)]
        changes = {
            path: _joined([x.changes[path] for x in (self, other) if path in x.changes])
            for path in both
        }
        return Adapters(changes, self.weights, f"{self.digest}+{other.digest}")


def side_by_side(adapters: tuple[Adapters, ...], weights: Any) -> Adapters:
    """The adapters of several requests as one, each used by the rows that `weights` says.

    Args:
        weights: float32 `[rows, n]`, n as many as there are adapters.
    """
    changes: dict[str, list[LowRank]] = {}
    for number, adapter in enumerate(adapters):
        own = jax.nn.one_hot(number, len(adapters))[:, None]
        for path, change in adapter.changes.items():
            mine = LowRank(change.a, change.b, own * change.scales)
            changes.setdefault(path, []).append(mine)
    joined = {path: _joined(parts) for path, parts in sorted(changes.items())}
    return Adapters(joined, weights, "\n".join(adapter.digest for adapter in adapters))


def _joined(parts: list[LowRank]) -> LowRank:
    """Changes of one parameter, rank beside rank."""
    if len(parts) == 1:
        return parts[0]
    of_experts = parts[0].a.ndim == 3
    return LowRank(
        a=jnp.concatenate([part.a for part in parts], axis=-1),
        b=jnp.concatenate([part.b for part in parts], axis=1 if of_experts else 0),
        scales=jnp.concatenate([part.scales for part in parts], axis=1),
    )
