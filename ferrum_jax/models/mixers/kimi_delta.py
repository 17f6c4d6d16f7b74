"""Kimi delta attention (Kimi Team 2025): the delta rule with a decay for each key element.

Dimension key: T tokens, C tokens of a tile, D model, N heads, K elements of a head, R rank,
W convolution taps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.mixers.chunks import Run, causal_conv, delta_rule, gated_norm, unit_length
from ferrum_jax.models.ragged import State, Tile
from ferrum_jax.types import KDAConfig


@struct.dataclass
class KDAParams:
    """One Kimi delta mixer; decay and gate come through a low rank, that of a head."""

    qkv: Any
    """[D, 3, N, K]"""
    conv: Any
    """[W, 3, N, K]"""
    decay_down: Any
    """[D, K]"""
    decay_up: Any
    """[K, N, K]"""
    gate_down: Any
    """[D, K]"""
    gate_up: Any
    """[K, N, K]"""
    beta: Any
    """[D, N]"""
    dt_bias: Any
    """[N, K]"""
    A_log: Any
    """[N]"""
    norm: Any
    """[K]"""
    out: Any
    """[N, K, D]"""


def shapes(spec: KDAConfig, width: int) -> KDAParams:
    """The parameters' shapes."""
    heads = (spec.num_heads, spec.head_dim)
    return KDAParams(
        qkv=(width, 3, *heads),
        conv=(spec.conv_size, 3, *heads),
        decay_down=(width, spec.head_dim),
        decay_up=(spec.head_dim, *heads),
        gate_down=(width, spec.head_dim),
        gate_up=(spec.head_dim, *heads),
        beta=(width, spec.num_heads),
        dt_bias=heads,
        A_log=(spec.num_heads,),
        norm=(spec.head_dim,),
        out=(*heads, width),
    )


def mix(x: Float[Array, "T D"], p: KDAParams, spec: KDAConfig, run: Run) -> Float[Array, "T D"]:
    """Sites: gate `[N, K]`, y `[N, K]`, state `[N, K, K]`."""
    gate_TNK = jnp.einsum("TR,RNK->TNK", x @ p.gate_down, p.gate_up)
    gate_TNK = run.tap("gate", gate_TNK)
    decay_TNK = jnp.einsum("TR,RNK->TNK", x @ p.decay_down, p.decay_up)
    inputs = (x @ p.qkv.reshape(x.shape[-1], -1), x @ p.beta, decay_TNK)

    def chunk(state: State, inputs: tuple[Array, Array, Array], tile: Tile) -> tuple[State, Array]:
        return _chunk(state, *inputs, tile, p, spec)

    y_TNK = run.tap("y", run(chunk, inputs))
    out = gated_norm(
        y_TNK, gate_TNK, p.norm, spec.norm_eps, gate_first=False, activation=jax.nn.sigmoid
    )
    return out.astype(x.dtype).reshape(x.shape[0], -1) @ p.out.reshape(-1, x.shape[-1])


def _chunk(
    state: State,
    mixed: Array,
    beta: Array,
    decay_CNK: Array,
    tile: Tile,
    p: KDAParams,
    spec: KDAConfig,
) -> tuple[State, Float[Array, "C N K"]]:
    """A tile: convolve, bring queries and keys to length one, then the delta rule."""
    weight = p.conv.astype(jnp.float32).reshape(spec.conv_size, -1)
    mixed, conv = causal_conv(mixed, state["conv"], weight, None, tile)
    q, k, v = jnp.split(jax.nn.silu(mixed), 3, axis=-1)
    heads = (-1, spec.num_heads, spec.head_dim)
    dt_CNK = jax.nn.softplus(decay_CNK.astype(jnp.float32) + p.dt_bias.astype(jnp.float32))
    y, after = delta_rule(
        unit_length(q.reshape(heads)) * spec.head_dim**-0.5,
        unit_length(k.reshape(heads)),
        v.reshape(heads),
        jax.nn.sigmoid(beta.astype(jnp.float32)),
        -jnp.exp(p.A_log.astype(jnp.float32))[:, None] * dt_CNK,
        state["state"],
        tile,
    )
    return {"conv": conv, "state": after}, y
