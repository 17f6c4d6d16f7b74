"""The run of a `Taps` through one trace: reads and changes the values that the model offers.

Dimension key: T tokens, R rows of an edit's arrays, A spans of layers, B spans of positions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ferrum_jax.types import (
    SITES,
    Edit,
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

    def wants(self, site: str) -> bool:
        return site in self._taps.sites

    def __call__(self, site: str, x: jax.Array, layer: int) -> jax.Array:
        if not self.wants(site):
            return x
        self.reached.add(site)
        for edit in self._taps.edits.get(site, ()):
            changed = self._edited(edit, site, x, layer)
            if changed.shape != x.shape:
                raise ModelError(
                    f"the edit at {site}, layer {layer} returned shape {changed.shape}; "
                    f"it must keep {x.shape}"
                )
            x = changed.astype(x.dtype)
        if self._taps.captures(site, layer):
            self.captured.setdefault(site, {})[layer] = x
        return x

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
            changed = edit.operation(x, edit.values, place, layer)
            if changed.shape != x.shape:
                return changed
            acts_T = acts_on(edit, place, layer)
            return jnp.where(acts_T.reshape(-1, *[1] * (x.ndim - 1)), changed.astype(x.dtype), x)


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
    if taps.place is not None or not taps.edits:
        return taps
    count = positions_T.shape[0]
    starts = jnp.concatenate([jnp.ones(1, bool), positions_T[1:] != positions_T[:-1] + 1])
    sequence_T = jnp.cumsum(starts) - 1
    lengths = jax.ops.segment_max(positions_T, sequence_T, num_segments=count) + 1
    rows = jnp.zeros(count, jnp.int32)
    return taps.replace(place=Place(rows, positions_T, lengths[sequence_T]))  # type: ignore[attr-defined]


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
