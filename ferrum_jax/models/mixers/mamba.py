"""Mamba: a selective scan with a decay per channel and state element (Gu and Dao 2023).

Dimension key: T tokens, C tokens of a tile, D model, I inner, S state, W convolution taps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.mixers.chunks import Run, causal_conv
from ferrum_jax.models.ragged import State, Tile
from ferrum_jax.types import MambaConfig


@struct.dataclass
class MambaParams:
    """One Mamba mixer."""

    project: Any
    """[D, 2 I]: what is convolved, and the gate"""
    conv: Any
    """[W, I]"""
    select: Any
    """[I, rank + 2 S]: dt's low rank, B and C"""
    dt: Any
    """[rank, I]"""
    dt_bias: Any
    """[I]"""
    A_log: Any
    """[I, S]"""
    D: Any
    """[I]"""
    out: Any
    """[I, D]"""
    project_bias: Any = None
    conv_bias: Any = None
    out_bias: Any = None


def shapes(spec: MambaConfig, width: int) -> MambaParams:
    """The parameters' shapes."""
    inner, state = spec.inner_size, spec.state_size
    return MambaParams(
        project=(width, 2 * inner),
        conv=(spec.conv_size, inner),
        select=(inner, spec.dt_rank + 2 * state),
        dt=(spec.dt_rank, inner),
        dt_bias=(inner,),
        A_log=(inner, state),
        D=(inner,),
        out=(inner, width),
        project_bias=(2 * inner,) if spec.proj_bias else None,
        conv_bias=(inner,) if spec.conv_bias else None,
        out_bias=(width,) if spec.proj_bias else None,
    )


def mix(x: Float[Array, "T D"], p: MambaParams, spec: MambaConfig, run: Run) -> Float[Array, "T D"]:
    """Sites: gate `[I]`, y `[I]`, state `[I, S]`."""
    y = x @ p.project
    y = y if p.project_bias is None else y + p.project_bias
    mixed, gate = jnp.split(y, 2, axis=-1)
    gate = run.tap("gate", gate)

    def chunk(state: State, mixed: Array, tile: Tile) -> tuple[State, Array]:
        return _chunk(state, mixed, tile, p, spec)

    y_TI = run.tap("y", run(chunk, mixed))
    out = (y_TI.astype(jnp.float32) * jax.nn.silu(gate.astype(jnp.float32))).astype(x.dtype)
    out = out @ p.out
    return out if p.out_bias is None else out + p.out_bias


def _chunk(
    state: State, mixed: Array, tile: Tile, p: MambaParams, spec: MambaConfig
) -> tuple[State, Float[Array, "C I"]]:
    """A tile: convolve, then `h = exp(dt A) h + dt u B^T; y = h C + D u`."""
    bias = None if p.conv_bias is None else p.conv_bias.astype(jnp.float32)
    u, conv = causal_conv(mixed, state["conv"], p.conv.astype(jnp.float32), bias, tile)
    u_CI = jax.nn.silu(u)
    selected = u_CI @ p.select.astype(jnp.float32)
    low, keys_CS, queries_CS = jnp.split(
        selected, (spec.dt_rank, spec.dt_rank + spec.state_size), axis=-1
    )
    dt_CI = jax.nn.softplus(low @ p.dt.astype(jnp.float32) + p.dt_bias.astype(jnp.float32))
    decay_CIS = jnp.exp(-dt_CI[:, :, None] * jnp.exp(p.A_log.astype(jnp.float32)))
    added_CIS = (dt_CI * u_CI)[:, :, None] * keys_CS[:, None, :]
    # Padding keeps the state as it is; the first token of a sequence forgets what was before it.
    valid = tile.valid[:, None, None]
    decay_CIS, added_CIS = jnp.where(valid, decay_CIS, 1.0), jnp.where(valid, added_CIS, 0.0)
    fresh = jnp.diff(tile.segments, prepend=0) > 0
    decay_CIS = jnp.where(fresh[:, None, None], 0.0, decay_CIS)
    added_CIS = added_CIS.at[0].add(decay_CIS[0] * state["state"])
    _, h_CIS = jax.lax.associative_scan(_compose, (decay_CIS, added_CIS))
    y_CI = jnp.einsum("CIS,CS->CI", h_CIS, queries_CS) + p.D.astype(jnp.float32) * u_CI
    return {"conv": conv, "state": h_CIS[-1]}, y_CI


def _compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two steps `h -> decay h + added` as one."""
    return first[0] * second[0], second[0] * first[1] + second[1]
