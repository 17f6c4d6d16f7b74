"""The gated short convolution of LFM2 (Liquid AI 2025).

Dimension key: T tokens, C tokens of a tile, D model, W convolution taps.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.mixers.chunks import Run, causal_conv
from ferrum_jax.models.ragged import State, Tile
from ferrum_jax.types import ShortConvConfig


@struct.dataclass
class ShortConvParams:
    """One short convolution."""

    project: Any
    """[D, 3, D]: what the input is multiplied by, the gate, and the input"""
    conv: Any
    """[W, D]"""
    out: Any
    """[D, D]"""
    project_bias: Any = None
    conv_bias: Any = None
    out_bias: Any = None


def shapes(spec: ShortConvConfig, width: int) -> ShortConvParams:
    """The parameters' shapes."""
    inner = spec.channels
    return ShortConvParams(
        project=(width, 3, inner),
        conv=(spec.size, inner),
        out=(inner, width),
        project_bias=(3, inner) if spec.bias else None,
        conv_bias=(inner,) if spec.bias else None,
        out_bias=(width,) if spec.bias else None,
    )


def mix(
    x: Float[Array, "T D"], p: ShortConvParams, spec: ShortConvConfig, run: Run
) -> Float[Array, "T D"]:
    """Sites: gate `[D]`, y `[D]` (the convolution before its gate)."""
    parts = (x @ p.project.reshape(x.shape[-1], -1)).reshape(-1, 3, spec.channels)
    parts = parts if p.project_bias is None else parts + p.project_bias
    gate = run.tap("gate", parts[:, 1])

    def chunk(state: State, inputs: Array, tile: Tile) -> tuple[State, Array]:
        bias = None if p.conv_bias is None else p.conv_bias.astype(jnp.float32)
        y, conv = causal_conv(inputs, state["conv"], p.conv.astype(jnp.float32), bias, tile)
        return {"conv": conv}, y

    y = run.tap("y", run(chunk, parts[:, 0] * parts[:, 2]))
    out = (gate * y.astype(x.dtype)) @ p.out
    return out if p.out_bias is None else out + p.out_bias
