"""Edits that change what is there: steering, scaling, and a function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
from jax.core import Tracer

from ferrum_jax.research.edits.build import as_row, make_taps, pad_rows
from ferrum_jax.research.edits.operations import NOWHERE, Add, Custom, KeepExperts, Multiply
from ferrum_jax.research.edits.spans import Layers, Positions, integers
from ferrum_jax.types import RequestError, Taps


def steer(
    vector: Any,
    layer: Layers,
    scale: float = 1.0,
    positions: Positions = None,
    *,
    site: str = "resid_post",
) -> Taps:
    """Add `scale * vector` to a site (Turner et al. 2023).

    Args:
        vector: of a token's shape at the site, `[D]` for the residual stream.
        layer: one layer, several, or None for all.

    Raises:
        RequestError: the vector or the scale is no finite number, or the site does not exist.
    """
    values = {"vector": as_row("vector", vector), "scale": as_row("scale", scale)}
    _check_scalar("scale", values["scale"])
    return make_taps(site, Add(), values, layers=layer, positions=positions)


def scale(site: str, factor: Any, layers: Layers = None, positions: Positions = None) -> Taps:
    """Multiply a site by a number, or elementwise by an array of a token's shape."""
    values = {"factor": as_row("factor", factor)}
    return make_taps(site, Multiply(), values, layers=layers, positions=positions)


def force_router(
    experts: int | Iterable[int], layer: Layers = None, positions: Positions = None
) -> Taps:
    """Route tokens to some experts only: the others are as if they did not exist.

    With as many experts as the model chooses, exactly those run, weighted as the model's router
    weighs what it chooses: by the softmax over their own logits, or, in a router of sigmoids, each
    by its own sigmoid, which knows no other expert (and is divided by their sum where the model's
    `norm_topk` says so). Where the router chooses groups of experts first, only those of the groups
    it keeps run. To repeat the routing of another run, `patch` the site `router` instead.

    Raises:
        RequestError: no experts, or one twice.
    """
    listed = integers("experts", experts)
    if len(set(listed)) < len(listed):
        raise RequestError(f"experts is {listed}; name each once")
    values = {"experts": pad_rows(np.asarray(listed, np.int32), NOWHERE)[None]}
    return make_taps("router", KeepExperts(), values, layers=layer, positions=positions)


def custom(
    site: str,
    function: Callable[..., Any],
    *arrays: Any,
    layers: Layers = None,
    positions: Positions = None,
) -> Taps:
    """An edit by a function of one's own: `function(x, *arrays)` returns the changed `x`.

    `x` is one token's activation, without the token axis; it is mapped over the tokens. The arrays
    are data: other values share the compiled program. The function is part of the program: define
    it once, a lambda written anew is another function and compiles anew.

    Raises:
        RequestError: it is no function, or an array is none.
    """
    if not callable(function):
        raise RequestError(f"function is {function!r}; give one that takes an activation")
    if not isinstance(function, Hashable):
        raise RequestError(
            f"function is {function!r}, which is not hashable, so that no compiled program could "
            "be found again by it; give a plain function, and its arrays as arguments"
        )
    values = tuple(as_row(f"array {i}", array) for i, array in enumerate(arrays))
    return make_taps(site, Custom(function), values, layers=layers, positions=positions)


def _check_scalar(name: str, row: Any) -> None:
    if isinstance(row, Tracer):
        return
    if row.shape != (1,):
        raise RequestError(f"{name} has shape {row.shape[1:]}; give one number")
