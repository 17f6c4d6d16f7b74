"""Gradients of pytrees that hold integers too, as edits do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def value_and_float_grad(
    function: Callable[..., Any], *, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """`jax.value_and_grad` to the float leaves of the first argument.

    The gradient has the argument's structure; leaves that are no floats (the layers and positions
    of an edit) are None in it.

        loss_of = lambda taps: fj.loss(params, tokens, config=config, taps=taps)
        value, grads = value_and_float_grad(loss_of)(fj.edits.steer(vector, layer=3))
        grads.edits["resid_post"][0].values["vector"]       # [1, D]: one row
    """

    def wrapped(tree: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree_util.tree_flatten(tree)
        places = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]

        def of_floats(floats: list[Any]) -> Any:
            joined = list(leaves)
            for place, leaf in zip(places, floats, strict=True):
                joined[place] = leaf
            return function(jax.tree_util.tree_unflatten(structure, joined), *args, **kwargs)

        floats = [leaves[place] for place in places]
        value, grads = jax.value_and_grad(of_floats, has_aux=has_aux)(floats)
        by_place = dict(zip(places, grads, strict=True))
        full = [by_place.get(place) for place in range(len(leaves))]
        return value, jax.tree_util.tree_unflatten(structure, full)

    return wrapped


def _is_float(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
