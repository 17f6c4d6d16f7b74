"""Mamba 2: a scalar decay per head, structured state-space duality (Dao and Gu 2024).

Dimension key: T tokens, C tokens of a tile, D model, I inner, N heads, P elements of a head,
G groups, S state, W convolution taps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.mixers.chunks import Run, causal_conv, decayed_attention, gated_norm
from ferrum_jax.models.ragged import State, Tile
from ferrum_jax.types import Mamba2Config


@struct.dataclass
class Mamba2Params:
    """One Mamba 2 mixer."""

    project: Any
    """[D, I + (I + 2 G S) + N]: gate, what is convolved (x, B, C), and dt"""
    conv: Any
    """[W, I + 2 G S]"""
    dt_bias: Any
    A_log: Any
    D: Any
    """[N]"""
    out: Any
    """[I, D]"""
    project_bias: Any = None
    conv_bias: Any = None
    norm: Any = None
    """[I]"""
    out_bias: Any = None


def shapes(spec: Mamba2Config, width: int) -> Mamba2Params:
    """The parameters' shapes."""
    inner, convolved = spec.inner_size, spec.conv_channels
    total = inner + convolved + spec.num_heads
    return Mamba2Params(
        project=(width, total),
        conv=(spec.conv_size, convolved),
        dt_bias=(spec.num_heads,),
        A_log=(spec.num_heads,),
        D=(spec.num_heads,),
        out=(inner, width),
        project_bias=(total,) if spec.proj_bias else None,
        conv_bias=(convolved,) if spec.conv_bias else None,
        norm=(inner,) if spec.norm_eps is not None else None,
        out_bias=(width,) if spec.out_bias else None,
    )


def mix(
    x: Float[Array, "T D"], p: Mamba2Params, spec: Mamba2Config, run: Run
) -> Float[Array, "T D"]:
    """Sites: gate `[I]`, y `[N, P]`, state `[N, P, S]`."""
    inner, convolved = spec.inner_size, spec.conv_channels
    y = (x if spec.input_scale == 1 else x * spec.input_scale) @ p.project
    y = _scaled(y if p.project_bias is None else y + p.project_bias, spec)
    gate, mixed, dt = jnp.split(y, (inner, inner + convolved), axis=-1)
    gate = run.tap("gate", gate)

    def chunk(state: State, inputs: tuple[Array, Array], tile: Tile) -> tuple[State, Array]:
        return _chunk(state, *inputs, tile, p, spec)

    y_TNP = run.tap("y", run(chunk, (mixed, dt)))
    y_TI = y_TNP.reshape(-1, inner)
    if spec.norm_eps is None:
        out = y_TI.astype(jnp.float32) * jax.nn.silu(gate.astype(jnp.float32))
    else:
        group = spec.norm_group or inner
        out = gated_norm(
            y_TI.reshape(-1, inner // group, group),
            gate.reshape(-1, inner // group, group),
            p.norm.reshape(-1, group),
            spec.norm_eps,
            gate_first=spec.gate_first,
        ).reshape(-1, inner)
    out = out.astype(x.dtype) @ p.out
    return out if p.out_bias is None else out + p.out_bias


def _scaled(y: Array, spec: Mamba2Config) -> Array:
    """The projection's parts by their multipliers."""
    if set(spec.part_scales) == {1.0}:
        return y
    groups = spec.num_groups * spec.state_size
    sizes = (spec.inner_size, spec.inner_size, groups, groups, spec.num_heads)
    scales = [jnp.full(n, s, y.dtype) for n, s in zip(sizes, spec.part_scales, strict=True)]
    return y * jnp.concatenate(scales)


def _chunk(
    state: State, mixed: Array, dt: Array, tile: Tile, p: Mamba2Params, spec: Mamba2Config
) -> tuple[State, Float[Array, "C N P"]]:
    """A tile: convolve, then `h = exp(dt A) h + dt x B^T; y = h C + D x`."""
    bias = None if p.conv_bias is None else p.conv_bias.astype(jnp.float32)
    mixed, conv = causal_conv(mixed, state["conv"], p.conv.astype(jnp.float32), bias, tile)
    mixed = jax.nn.silu(mixed)
    inner, groups = spec.inner_size, spec.num_groups * spec.state_size
    x, keys, queries = jnp.split(mixed, (inner, inner + groups), axis=-1)
    x_CNP = x.reshape(-1, spec.num_heads, spec.head_dim)
    keys_CNS, queries_CNS = (_by_head(part, spec) for part in (keys, queries))
    dt_CN = jax.nn.softplus(dt.astype(jnp.float32) + p.dt_bias.astype(jnp.float32))
    dt_CN = jnp.clip(dt_CN, spec.dt_min, spec.dt_max)
    log_decay_CN = -jnp.exp(p.A_log.astype(jnp.float32)) * dt_CN
    y_CNP, h_NSP = decayed_attention(
        queries_CNS,
        keys_CNS,
        x_CNP * dt_CN[:, :, None],
        log_decay_CN,
        jnp.swapaxes(state["state"], 1, 2),
        tile,
    )
    y_CNP += p.D.astype(jnp.float32)[:, None] * x_CNP
    return {"conv": conv, "state": jnp.swapaxes(h_NSP, 1, 2)}, y_CNP


def _by_head(x: Array, spec: Mamba2Config) -> Float[Array, "C N S"]:
    """B or C of each head: that of its group."""
    by_group = x.reshape(-1, spec.num_groups, spec.state_size)
    return jnp.repeat(by_group, spec.num_heads // spec.num_groups, axis=1)
