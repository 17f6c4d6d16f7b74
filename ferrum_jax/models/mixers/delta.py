"""The gated delta rule (Yang, Kautz and Hatamizadeh 2024), as Qwen 3 Next uses it.

Dimension key: T tokens, C tokens of a tile, D model, N value heads, M key heads, K key elements,
V value elements, W convolution taps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.mixers.chunks import Run, causal_conv, delta_rule, gated_norm, unit_length
from ferrum_jax.models.ragged import State, Tile
from ferrum_jax.types import GatedDeltaConfig


@struct.dataclass
class GatedDeltaParams:
    """One gated delta mixer."""

    qkv: Any
    """[D, 2 M K + N V]: all queries, all keys, all values"""
    gate: Any
    """[D, N, V]"""
    beta: Any
    """[D, N]"""
    decay: Any
    """[D, N]"""
    conv: Any
    """[W, 2 M K + N V]"""
    dt_bias: Any
    A_log: Any
    """[N]"""
    norm: Any
    """[V]"""
    out: Any
    """[N, V, D]"""


def shapes(spec: GatedDeltaConfig, width: int) -> GatedDeltaParams:
    """The parameters' shapes."""
    heads, value = spec.num_value_heads, spec.value_dim
    return GatedDeltaParams(
        qkv=(width, spec.conv_channels),
        gate=(width, heads, value),
        beta=(width, heads),
        decay=(width, heads),
        conv=(spec.conv_size, spec.conv_channels),
        dt_bias=(heads,),
        A_log=(heads,),
        norm=(value,),
        out=(heads, value, width),
    )


def mix(
    x: Float[Array, "T D"], p: GatedDeltaParams, spec: GatedDeltaConfig, run: Run
) -> Float[Array, "T D"]:
    """Sites: gate `[N, V]`, y `[N, V]`, state `[N, K, V]`."""
    heads, value = spec.num_value_heads, spec.value_dim
    gate_TNV = (x @ p.gate.reshape(x.shape[-1], -1)).reshape(-1, heads, value)
    gate_TNV = run.tap("gate", gate_TNV)
    inputs = (x @ p.qkv, x @ p.beta, x @ p.decay)

    def chunk(state: State, inputs: tuple[Array, Array, Array], tile: Tile) -> tuple[State, Array]:
        return _chunk(state, *inputs, tile, p, spec)

    y_TNV = run.tap("y", run(chunk, inputs))
    out = gated_norm(y_TNV, gate_TNV, p.norm, spec.norm_eps, gate_first=False)
    return out.astype(x.dtype).reshape(x.shape[0], -1) @ p.out.reshape(-1, x.shape[-1])


def _chunk(
    state: State,
    mixed: Array,
    beta: Array,
    decay: Array,
    tile: Tile,
    p: GatedDeltaParams,
    spec: GatedDeltaConfig,
) -> tuple[State, Float[Array, "C N V"]]:
    """A tile: convolve, bring queries and keys to length one, then the delta rule."""
    mixed, conv = causal_conv(mixed, state["conv"], p.conv.astype(jnp.float32), None, tile)
    mixed = jax.nn.silu(mixed)
    keys = spec.num_key_heads * spec.key_dim
    q, k, v = jnp.split(mixed, (keys, 2 * keys), axis=-1)
    shared = spec.num_value_heads // spec.num_key_heads

    def by_head(part: Array) -> Array:
        heads = unit_length(part.reshape(-1, spec.num_key_heads, spec.key_dim))
        return jnp.repeat(heads, shared, axis=1)

    dt_CN = jax.nn.softplus(decay.astype(jnp.float32) + p.dt_bias.astype(jnp.float32))
    log_decay_CN = -jnp.exp(p.A_log.astype(jnp.float32)) * dt_CN
    y, after = delta_rule(
        by_head(q) * spec.key_dim**-0.5,
        by_head(k),
        v.reshape(-1, spec.num_value_heads, spec.value_dim),
        jax.nn.sigmoid(beta.astype(jnp.float32)),
        log_decay_CN[:, :, None],
        state["state"],
        tile,
    )
    return {"conv": conv, "state": after}, y
