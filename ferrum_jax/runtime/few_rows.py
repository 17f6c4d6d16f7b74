"""How weights lie for steps of few rows and for the others, on a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from ferrum_jax.models import Params
from ferrum_jax.models.outputs_first import OutputsFirst, copied_bytes, kind_of, with_outputs_first
from ferrum_jax.models.params import path_name
from ferrum_jax.models.quantized import is_quantized
from ferrum_jax.models.wide_sums import with_wide_sums
from ferrum_jax.types import DataType, DeviceInfo, EngineConfig

SHARE = 0.25
"""Of the free memory that the copies may take."""


def params_of_steps(
    params: Params, engine: EngineConfig, device: DeviceInfo
) -> tuple[Params, Params | None]:
    """The same weights for steps of many rows, and for those of few (`outputs_first.MOST_ROWS`).

    None: there are no copies, and steps of few rows use the first too.
    """
    wide = DataType.BFLOAT16 in device.multiplies and _alone(engine)
    many = with_wide_sums(params) if wide else params
    few = few_rows_params(params, engine, device)
    return (many, None) if few is None else (_with_copies_that_suit(many, few), few)


def few_rows_params(params: Params, engine: EngineConfig, device: DeviceInfo) -> Params | None:
    """The parameters with copies for steps of few rows; None: there are none."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized)
    kinds = {path_name(path): (leaf.shape, kind_of(leaf)) for path, leaf in leaves}
    if not copies_fit(copied_bytes(kinds, device.multiplies), engine, device):
        return None
    return with_outputs_first(params, device.multiplies, tiles=device.tiles)


def copies_fit(needed: int, engine: EngineConfig, device: DeviceInfo) -> bool:
    """Whether copies of so many bytes are made."""
    free = device.free_bytes
    return device.platform == "cpu" and _alone(engine) and (free is None or needed <= SHARE * free)


def _alone(engine: EngineConfig) -> bool:
    """Whether a step may take any product.

    A batch-invariant one has its own tiles of rows, and on a mesh a device has its part of a matrix
    as it stands.
    """
    return engine.mesh is None and not engine.batch_invariant


def _with_copies_that_suit(many: Params, few: Params) -> Params:
    """`many` with the copies that are the faster way for many rows too."""

    def one(copy: Any, leaf: Any) -> Any:
        return copy if _is_copy(copy) and copy.suits_many_rows else leaf

    if many.unembed is None:  # The head is tied; its copy stands where there is none.
        head = few.unembed if few.unembed.suits_many_rows else None
        laid = jax.tree.map(one, replace(few, unembed=None), many, is_leaf=_is_copy)
        return replace(laid, unembed=head)
    return jax.tree.map(one, few, many, is_leaf=_is_copy)


def _is_copy(leaf: Any) -> bool:
    return isinstance(leaf, OutputsFirst)
