"""Lightning attention (Qin et al. 2024): linear attention whose heads forget at fixed rates.

Dimension key: T tokens, C tokens of a tile, D model, N heads, H elements of a head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.mixers.chunks import Run, decayed_attention
from ferrum_jax.models.ragged import State, Tile
from ferrum_jax.types import LightningConfig


@struct.dataclass
class LightningParams:
    """One lightning attention mixer."""

    qkv: Any
    """[D, N, 3, H]"""
    gate: Any
    """[D, N, H]"""
    norm: Any
    """[N, H]: one norm over all heads"""
    out: Any
    """[N, H, D]"""


def shapes(spec: LightningConfig, width: int) -> LightningParams:
    """The parameters' shapes."""
    heads = (spec.num_heads, spec.head_dim)
    return LightningParams(
        qkv=(width, spec.num_heads, 3, spec.head_dim),
        gate=(width, *heads),
        norm=heads,
        out=(*heads, width),
    )


def mix(
    x: Float[Array, "T D"], p: LightningParams, spec: LightningConfig, run: Run
) -> Float[Array, "T D"]:
    """Sites: gate `[N, H]`, y `[N, H]`, state `[N, H, H]`."""
    qkv = (x @ p.qkv.reshape(x.shape[-1], -1)).reshape(-1, *p.qkv.shape[1:])
    gate_TNH = (x @ p.gate.reshape(x.shape[-1], -1)).reshape(-1, *p.gate.shape[1:])
    gate_TNH = run.tap("gate", gate_TNH)

    def chunk(state: State, qkv: Array, tile: Tile) -> tuple[State, Array]:
        q, k, v = jnp.moveaxis(jax.nn.silu(qkv.astype(jnp.float32)), 2, 0)
        log_decay = jnp.broadcast_to(-jnp.asarray(spec.decays, jnp.float32), q.shape[:2])
        y, after = decayed_attention(q, k, v, log_decay, state["state"], tile)
        return {"state": after}, y

    y_TNH = run.tap("y", run(chunk, qkv)).astype(jnp.float32)
    variance = jnp.mean(jnp.square(y_TNH), axis=(1, 2), keepdims=True)
    normed = y_TNH / jnp.sqrt(variance + spec.norm_eps) * p.norm.astype(jnp.float32)
    out = normed * jax.nn.sigmoid(gate_TNH.astype(jnp.float32))
    return out.astype(x.dtype).reshape(x.shape[0], -1) @ p.out.reshape(-1, x.shape[-1])
