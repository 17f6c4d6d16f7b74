"""Edits that put activations of another run in place: patching, frozen attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from ferrum_jax.research.edits.build import as_row, make_taps, pad_rows
from ferrum_jax.research.edits.operations import NOWHERE, Patch, PatchPattern
from ferrum_jax.research.edits.spans import Layers, Positions, integers, position_list
from ferrum_jax.types import RequestError, Taps

HEAD_SITES = ("q", "k", "v", "z", "pattern")
"""Sites where a token has an activation per head."""
MIXER_SITES = ("gate", "y", "state")
"""Sites where it has one per head, or per channel where a recurrence has no heads."""


def patch(
    activations: Any,
    layer: Layers,
    positions: Positions = None,
    site: str = "resid_post",
    *,
    heads: Any = None,
) -> Taps:
    """Tokens at some positions take activations of another run (Meng et al. 2022).

    Args:
        activations: `[n, *site]`, one row per position, as `llm.capture` returns them; or without
            the first axis where one position is named.
        positions: n positions; negative ones count from the prompt's end, and those beyond the
            prompt are generated tokens. None: the first n.
        heads: of sites with heads, those that are patched; None: all. At `gate`, `y` and `state` of
            a recurrence without heads, its channels.

    Raises:
        RequestError: another number of positions, or something that is no array of numbers.
    """
    operation = PatchPattern() if site == "pattern" else Patch()
    rows = as_row("activations", activations)
    headed = HEAD_SITES + MIXER_SITES
    if heads is not None and site not in headed:
        raise RequestError(f"{site!r} has no heads; the sites that have: {', '.join(headed)}")
    if isinstance(positions, int | np.integer) and _is_of_one_token(rows[0], site):
        rows = rows[:, None]
    if rows.ndim < 2 or rows.shape[1] == 0:
        raise RequestError(
            f"activations have the shape {rows.shape[1:]}; give a row for each position"
        )
    places = position_list(positions, rows.shape[1])
    values = {
        "activations": pad_rows(rows[0])[None],
        "positions": _padded_places(places)[None],
        "units": None if heads is None else _heads(heads)[None],
    }
    where = range(rows.shape[1]) if positions is None else positions
    return make_taps(site, operation, values, layers=layer, positions=where)


def freeze_attention(
    pattern: Any, layer: Layers, positions: Positions = None, *, heads: Any = None
) -> Taps:
    """Attention weights as they were in another run, while values may differ.

    Args:
        pattern: `[n, N, S]`, queries first, as `llm.capture(sites=("pattern",))` returns it. Keys
            beyond its S get weight 0, and so do keys behind their query.
        positions, heads: as for `patch`.
    """
    return patch(pattern, layer, positions, "pattern", heads=heads)


def _is_of_one_token(array: Any, site: str) -> bool:
    """Whether the axis of tokens is left out."""
    if site in MIXER_SITES:
        return array.ndim > 0 and array.shape[0] != 1
    return array.ndim == (2 if site in HEAD_SITES else 1)


def _padded_places(places: np.ndarray) -> np.ndarray:
    """`(position, from_end)` pairs, padded with ones that match no token."""
    padded = pad_rows(places, NOWHERE)
    padded[len(places) :, 1] = 0
    return padded


def _heads(heads: Any) -> np.ndarray:
    return pad_rows(np.asarray(integers("heads", heads), np.int32), NOWHERE)
