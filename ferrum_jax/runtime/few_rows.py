"""How weights lie for steps of few rows and for the others, on a CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ferrum_jax.models import Params
from ferrum_jax.models.outputs_first import MOST_ROWS, copied_bytes, with_outputs_first
from ferrum_jax.models.params import path_name
from ferrum_jax.models.quantized import is_quantized
from ferrum_jax.models.wide_sums import FEWEST_ROWS
from ferrum_jax.types import DeviceInfo, EngineConfig

SHARE = 0.25
"""Of the free memory that the copies may take."""


def few_rows_params(params: Params, engine: EngineConfig, device: DeviceInfo) -> Params | None:
    """The parameters with copies for steps of few rows; None: such steps use `params` too."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized)
    shapes = {path_name(path): leaf.shape for path, leaf in leaves}
    needed = copied_bytes(shapes, str(params.embed.dtype))
    if not copies_fit(needed, engine, device):
        return None
    return with_outputs_first(params)


def most_few_rows(wide: bool) -> int:
    """Rows up to which a step has few, where others multiply `wide` or do not."""
    return FEWEST_ROWS - 1 if wide else MOST_ROWS


def multiplies_wide(params: Params, engine: EngineConfig, device: DeviceInfo) -> bool:
    """Whether steps of more than a few rows multiply bfloat16 and sum in float32."""
    if not device.multiplies_bfloat16 or engine.mesh is not None or engine.batch_invariant:
        return False
    leaves = jax.tree_util.tree_leaves(params, is_leaf=is_quantized)
    return params.embed.dtype == jnp.bfloat16 and not any(map(is_quantized, leaves))


def copies_fit(needed: int, engine: EngineConfig, device: DeviceInfo) -> bool:
    """Whether copies of so many bytes are made.

    A batch-invariant step has its own tiles of rows, and on a mesh a device has its part of a
    matrix as it stands.
    """
    alone = engine.mesh is None and not engine.batch_invariant
    free = device.free_bytes
    return device.platform == "cpu" and alone and (free is None or needed <= SHARE * free)
