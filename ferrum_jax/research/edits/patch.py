"""Edits that put activations of another run in place: patching, frozen attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from ferrum_jax.research.edits.build import as_row, make_taps, pad_rows
from ferrum_jax.research.edits.operations import NOWHERE, Patch, PatchPattern
from ferrum_jax.research.edits.spans import Layers, Positions, position_list
from ferrum_jax.types import RequestError, Taps


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
        heads: of sites with heads, those that are patched; None: all.

    Raises:
        RequestError: another number of positions, or something that is no array of numbers.
    """
    operation = PatchPattern() if site == "pattern" else Patch()
    rows = as_row("activations", activations)
    if isinstance(positions, int):
        rows = rows[:, None]
    if rows.ndim < 2 or rows.shape[1] == 0:
        raise RequestError("activations are empty; give a row for each position")
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


def _padded_places(places: np.ndarray) -> np.ndarray:
    """`(position, from_end)` pairs, padded with ones that match no token."""
    padded = pad_rows(places, NOWHERE)
    padded[len(places) :, 1] = 0
    return padded


def _heads(heads: Any) -> np.ndarray:
    listed = [heads] if isinstance(heads, int | np.integer) else list(heads)
    whole = [h for h in listed if isinstance(h, int | np.integer) and not isinstance(h, bool)]
    if not listed or len(whole) < len(listed):
        raise RequestError(f"heads is {heads!r}; give head numbers")
    return pad_rows(np.asarray(listed, np.int32), NOWHERE)
