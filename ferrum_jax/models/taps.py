"""The run of a `Taps` through one trace: reads and changes the values that the model offers.

Dimension key: T tokens, R rows of an edit's arrays (ranks, of adapters), A spans of layers, B spans
of positions, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ferrum_jax.types import (
    SITES,
    Edit,
    LowRank,
    ModelError,
    Place,
    RequestError,
    Taps,
    UnsupportedError,
)


class TapRun:
    """`x = run("resid_post", x, layer)` is the identity unless that site is captured or edited.

    Made anew for each trace and dropped after it. Captured values are kept as the model goes on
    with them, edits included. That every edit fits somewhere is `check_edits`' business.
    """

    def __init__(self, taps: Taps):
        for site in taps.sites:
            if site not in SITES:
                raise ModelError(f"{site!r} is not a site; the sites are {', '.join(SITES)}")
        self._taps = taps
        self.reached: set[str] = set()
        self.captured: dict[str, dict[int, jax.Array]] = {}
        self._entered: jax.Array | None = None
        """The stream before the layer at hand."""

    def wants(self, site: str) -> bool:
        return site in self._taps.sites

    def low_rank(self, path: str) -> tuple[LowRank, jax.Array] | None:
        """The change of the parameter at a path, and each token's factors of its ranks."""
        adapters = self._taps.adapters
        if adapters is None or path not in adapters.changes:
            return None
        assert self._taps.place is not None
        change = adapters.changes[path]
        return change, rows_of(adapters.weights, self._taps.place) @ change.scales

    def __call__(self, site: str, x: jax.Array, layer: int) -> jax.Array:
        if self.wants(site):
            x = self._tapped(site, x, layer)
        if site == "resid_pre":
            self._entered = x
        return x

    def _tapped(self, site: str, x: jax.Array, layer: int) -> jax.Array:
        for edit in self._taps.edits.get(site, ()):
            changed = self._edited(edit, site, x, layer)
            if changed.shape != x.shape:
                raise ModelError(
                    f"the edit at {site}, layer {layer} returned shape {changed.shape}; "
                    f"it must keep {x.shape}"
                )
            x = changed.astype(x.dtype)
        self.keep(site, x, layer)
        return x

    def keep(self, site: str, x: jax.Array, layer: int) -> None:
        """Capture an activation as it is, where it is asked for."""
        self.reached.add(site)
        if self._taps.captures(site, layer):
            self.captured.setdefault(site, {})[layer] = x

    def edited_at(self, site: str, x: jax.Array, layer: int, token: jax.Array) -> jax.Array:
        """One token's activation with its edits made."""
        place = self._taps.place
        if not self._taps.edits.get(site) or place is None:
            return x
        there = self._taps.replace(place=place.take(token[None]))  # type: ignore[attr-defined]
        return TapRun(there)(site, x[None], layer)[0]

    def _edited(self, edit: Edit, site: str, x: jax.Array, layer: int) -> jax.Array:
        """The activation with an edit made where it acts; a bare function acts everywhere.

        Layers may differ in shape, and which ones an edit is for is data: where its arrays do not
        fit it is not for this layer.
        """
        if not isinstance(edit, Edit):
            return edit(x, layer)
        place = self._taps.place
        assert place is not None
        try:
            edit.operation.check(site, layer, x.shape[1:], edit.values)
        except RequestError:
            return x
        with jax.named_scope(f"edit_{type(edit.operation).__name__}"):
            entered = getattr(edit.operation, "reads_entered", False)
            given = self._entered if entered else x
            changed = edit.operation(given, edit.values, place, layer)
            if changed.shape != x.shape:
                return changed
            acts_T = acts_on(edit, place, layer)
            return jnp.where(acts_T.reshape(-1, *[1] * (x.ndim - 1)), changed.astype(x.dtype), x)


class LayerTap:
    """`TapRun` of one layer: `x = tap("q", x)`; and the low-rank changes of its parameters."""

    def __init__(self, run: TapRun, layer: int, path: str | None = None):
        self._run, self._layer = run, layer
        self._path = f"layers.{layer}" if path is None else path

    def within(self, block: str) -> LayerTap:
        """The same of a block, whose parameters stand below its name."""
        return LayerTap(self._run, self._layer, f"{self._path}.{block}")

    def low_rank(self, parameter: str) -> tuple[LowRank, Array] | None:
        """The change of a parameter, and what each token multiplies its ranks by `[T, R]`."""
        return self._run.low_rank(f"{self._path}.{parameter}")

    def adapted(self, parameter: str, x: Array, y: Array) -> Array:
        """What a projection gave `[T, ...]`, with its change; `x` is what it read `[T, I]`."""
        found = self.low_rank(parameter)
        return y if found is None else y + low_rank_product(x, *found).astype(y.dtype)

    def __call__(self, site: str, x: Array) -> Array:
        return self._run(site, x, self._layer)

    def wants(self, site: str) -> bool:
        return self._run.wants(site)

    def pattern(self) -> Callable[[Array], Array] | None:
        """For attention, which need not form its weights where nobody looks."""
        return partial(self, "pattern") if self._run.wants("pattern") else None

    def at(self, token: Array) -> Callable[[str, Array], Array]:
        """For one token inside a scan: edits of its activation `[...]`, which is not captured."""
        return lambda site, x: self._run.edited_at(site, x, self._layer, token)

    def keep(self, site: str, x: Array) -> None:
        """Note what a scan found at a site, edits already in it."""
        self._run.keep(site, x, self._layer)


def acts_on(edit: Edit, place: Place, layer: int) -> Bool[Array, " T"]:
    """For which tokens an edit acts in a layer."""
    layers, spans = jnp.asarray(edit.layers), jnp.asarray(edit.positions)
    here_R = jnp.any((layers[:, :, 0] <= layer) & (layer < layers[:, :, 1]), axis=1)
    spans_TB4, ends_T1 = rows_of(spans, place), place.prompt_lens[:, None]
    start_TB = spans_TB4[..., 0] + spans_TB4[..., 1] * ends_T1
    stop_TB = spans_TB4[..., 2] + spans_TB4[..., 3] * ends_T1
    at_T1 = place.positions[:, None]
    return rows_of(here_R, place) & jnp.any((start_TB <= at_T1) & (at_T1 < stop_TB), axis=1)


def rows_of(table: Array, place: Place) -> Array:
    """`[R, ...] -> [T, ...]`: each token's row; a table of one row serves every token."""
    if table.shape[0] == 1:
        return jnp.broadcast_to(table, (place.rows.shape[0], *table.shape[1:]))
    return table[place.rows]


def placed(taps: Taps, positions_T: Int[Array, " T"]) -> Taps:
    """The taps with a place: where none is given, every token is row 0 and part of a prompt.

    A sequence starts wherever a position does not follow the one before it.
    """
    if taps.place is not None or not taps.acts:
        return taps
    count = positions_T.shape[0]
    starts = jnp.concatenate([jnp.ones(1, bool), positions_T[1:] != positions_T[:-1] + 1])
    sequence_T = jnp.cumsum(starts) - 1
    lengths = jax.ops.segment_max(positions_T, sequence_T, num_segments=count) + 1
    rows = jnp.zeros(count, jnp.int32)
    return taps.replace(place=Place(rows, positions_T, lengths[sequence_T]))  # type: ignore[attr-defined]


def low_rank_product(
    x: Float[Array, "T I"], change: LowRank, factors_TR: Float[Array, "T R"]
) -> Float[Array, "T ..."]:
    """`(x a) * factors` through `b`, in fp32: zero for a token whose factors are."""
    inner_TR = jnp.matmul(x, change.a, preferred_element_type=jnp.float32) * factors_TR
    out = jnp.matmul(
        inner_TR.astype(change.b.dtype),
        change.b.reshape(change.b.shape[0], -1),
        preferred_element_type=jnp.float32,
    )
    return out.reshape(x.shape[0], *change.b.shape[1:])


def check_all_reached(taps: Taps, reached: set[str]) -> None:
    """Raise for a site that is asked for and that this model or attention does not have.

    The site `logits` is reached by `unembed`.
    """
    missed = sorted(taps.sites - reached - {"logits"})
    if "pattern" in missed:
        raise UnsupportedError(
            "the site 'pattern' exists only where attention weights are formed; use "
            "dense_attention, or EngineConfig(attention='xla')"
        )
    if missed:
        raise ModelError(f"this model never reaches the site(s) {', '.join(missed)}")
