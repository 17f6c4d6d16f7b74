"""The places of a model that can be read or changed, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import struct

SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "q",
    "k",
    "v",
    "z",
    "pattern",
    "attn_out",
    "mlp_pre",
    "mlp_post",
    "mlp_out",
    "router",
    "logits",
)
"""Site names, as interpretability work uses them: `z` is the per-head attention output, `pattern`
the attention weights, `resid_*` the residual stream before, amid and after a layer."""

Edit = Callable[[jax.Array, int], jax.Array]
"""`edit(x, layer) -> x`: a `jax.tree_util.Partial` of a module-level function, its arrays data."""


@struct.dataclass
class Taps:
    """What to capture (static) and what to edit (data; other values never recompile)."""

    capture: tuple[str, ...] = struct.field(pytree_node=False, default=())
    edits: dict[str, tuple[Any, ...]] = struct.field(default_factory=dict)

    @property
    def sites(self) -> frozenset[str]:
        """Every site that is asked for."""
        return frozenset(self.capture) | frozenset(self.edits)
