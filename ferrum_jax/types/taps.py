"""The places of a model that can be read or changed, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from flax import struct

from ferrum_jax.types.adapters import Adapters

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
    "expert_weights",
    "latent",
    "gate",
    "y",
    "state",
    "mixer_out",
    "logits",
)
"""Site names, as interpretability work uses them: `z` is the per-head attention output, `pattern`
the attention weights, `resid_*` the residual stream before, amid and after a layer; `latent` what
latent attention caches, `gate` what an output is gated by before its activation, `y` the output of
a recurrence, `state` what it leaves behind the token, `mixer_out` what it adds; `expert_weights`
the routing. The first axis of each is the token's."""

EVERYWHERE = 2**31 - 1
"""The end of a span that has no end."""


@struct.dataclass
class Place:
    """Where the tokens of an activation stand. All int32 `[T]`."""

    rows: jax.Array
    """which row of an edit's arrays is the token's: one per request"""
    positions: jax.Array
    """in its own sequence"""
    prompt_lens: jax.Array
    """tokens of its prompt: those from there on were generated"""

    def take(self, index: Any) -> Place:
        """The places of some of the tokens."""
        return jax.tree_util.tree_map(lambda x: x[index], self)


@struct.dataclass
class Edit:
    """One change at one site: a static operation, and everything else as data.

    Every array has a row per request (`Place.rows`); an edit for one request has one row. Other
    values, layers or positions never recompile; another operation or other shapes do.
    """

    operation: Any = struct.field(pytree_node=False)
    """An `interfaces.EditOperation`, frozen and compared by value."""
    values: Any
    """A pytree of arrays `[rows, ...]`, as the operation reads it; may be None."""
    layers: Any
    """int32 `[rows, A, 2]`: spans `[start, stop)` of layers where the edit acts"""
    positions: Any
    """int32 `[rows, B, 4]`: spans `(start, from_end, stop, from_end)` of positions where it acts,
    each end counted from the sequence's start, or from its prompt's end where `from_end` is 1"""


@struct.dataclass
class Taps:
    """What to capture (static) and what to edit (data; other values never recompile).

    `a + b` captures what either does, edits as `a` does and then as `b` does, and has the adapters
    of both.
    """

    capture: tuple[str, ...] = struct.field(pytree_node=False, default=())
    layers: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)
    """Layers that are captured; None: all."""
    edits: dict[str, tuple[Edit, ...]] = struct.field(default_factory=dict)
    """By site, in the order in which they act."""
    place: Place | None = None
    """Where the tokens at hand stand; None: row 0, and prompts without generated tokens."""
    adapters: Adapters | None = None
    """Low-rank changes of weights (`LLM.load_adapter`)."""

    @property
    def acts(self) -> bool:
        """Whether the model is changed."""
        return any(self.edits.values()) or self.adapters is not None

    @property
    def sites(self) -> frozenset[str]:
        """Every site that is asked for."""
        return frozenset(self.capture) | frozenset(self.edits)

    def captures(self, site: str, layer: int) -> bool:
        """Whether a site of a layer is captured."""
        return site in self.capture and (
            self.layers is None or site == "logits" or layer in self.layers
        )

    def __add__(self, other: Taps) -> Taps:
        if not isinstance(other, Taps):
            return NotImplemented
        edits = {
            site: self.edits.get(site, ()) + other.edits.get(site, ())
            for site in dict.fromkeys((*self.edits, *other.edits))
        }
        capture = tuple(dict.fromkeys((*self.capture, *other.capture)))
        place = other.place if self.place is None else self.place
        mine, theirs = self.adapters, other.adapters
        adapters = mine + theirs if mine is not None and theirs is not None else mine or theirs
        return Taps(capture, _union(self, other), edits, place, adapters)


def _union(a: Taps, b: Taps) -> tuple[int, ...] | None:
    """The captured layers of both; of one alone if the other captures nothing."""
    if not a.capture:
        return b.layers
    if not b.capture:
        return a.layers
    if a.layers is None or b.layers is None:
        return None
    return tuple(sorted({*a.layers, *b.layers}))


@dataclass(frozen=True)
class TapPlan:
    """What a step's program is compiled for: captures, and edits and processors without values."""

    capture: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    lanes: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """By site the edits in their order, each as its tree structure and the shapes of its rows."""
    adapters: tuple[str, ...] = ()
    """Digests of the adapters that lie side by side."""
    processors: tuple[Any, ...] = ()
    """Logits processors in their order, as `lanes` has edits."""

    def __bool__(self) -> bool:
        return bool(self.capture or self.lanes or self.adapters or self.processors)

    def __str__(self) -> str:
        parts = [f"{len(lanes)} at {site}" for site, lanes in self.lanes]
        edits = f"edits: {', '.join(parts)}" if parts else ""
        captures = f"captures {', '.join(self.capture)}" if self.capture else ""
        adapters = f"{len(self.adapters)} adapters" if self.adapters else ""
        processors = f"{len(self.processors)} logits processors" if self.processors else ""
        return "; ".join(filter(None, (edits, captures, adapters, processors)))
