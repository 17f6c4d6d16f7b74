"""Attention blocks: from the layer's input to what it adds to the residual stream.

Dimension key: T tokens, D model, N query heads, K kv heads, G = N / K, H head; of latent attention
C latent, n elements of a head without rope, r with it, V value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ferrum_jax.models.norm import normalise
from ferrum_jax.models.params import AttentionParams, MLAParams
from ferrum_jax.models.rope import Angles, apply_rope
from ferrum_jax.types import (
    AttentionConfig,
    LayerCache,
    MLAConfig,
    NormKind,
    QKNormOver,
    QueryTemperature,
    RopeConfig,
)

Result = tuple[Array, LayerCache | None]


class Sequences(NamedTuple):
    """What a layer knows of the tokens besides their activations."""

    positions_T: Array
    angles: dict[tuple[RopeConfig, int], Angles]
    attend: Callable[..., Any]
    """bound to the layer's cache"""
    shared_kv: tuple[Array, Array] | None = None
    """keys and values of the layer that this one reads them from"""


def attention(
    x: Array, p: AttentionParams, spec: AttentionConfig, eps: float, at: Sequences, tap
) -> tuple[Array, LayerCache | None, tuple[Array, Array]]:
    """Grouped-query attention. Sites: q, k, v, z, pattern, gate.

    Returns:
        What it adds, the cache, and its keys and values for layers that share them.
    """
    if spec.input_scale != 1.0:
        x = x * spec.input_scale
    q, k, v = _project(x, p, spec, tap)
    q = _positioned(q, p.q_norm, spec, eps, at)
    q = tap("q", _warmed(q, spec.temperature, at.positions_T))
    if k is None:
        assert at.shared_kv is not None
        k, v = at.shared_kv
    else:
        k = k * spec.key_scale if spec.key_scale != 1.0 else k
        k = tap("k", _positioned(k, p.k_norm, spec, eps, at))
        if spec.v_norm is not None:
            v = normalise(v, p.v_norm, spec.v_norm, eps)
        v = tap("v", _cut(v, spec))
    cached = spec.kv_from is not None
    z, cache = at.attend(
        q, k, v, spec=spec, sinks=p.sinks, tap_pattern=tap.pattern(), cached=cached
    )
    if p.gate is not None:
        gate = (x @ p.gate.reshape(x.shape[-1], -1)).reshape(z.shape)
        gate = tap("gate", tap.adapted("gate", x, gate))
        z = z * jax.nn.sigmoid(gate)
    z_TM = tap("z", z).reshape(x.shape[0], -1)
    out = tap.adapted("o", z_TM, z_TM @ p.o.reshape(z_TM.shape[1], -1))
    return (out if p.o_bias is None else out + p.o_bias), cache, (k, v)


def _project(x: Array, p: AttentionParams, spec: AttentionConfig, tap) -> tuple[Array, Any, Any]:
    """Queries `[T, N, H]`, keys and values `[T, K, H]`; None where they are another layer's.

    `TD,DKGH->TKGH`, written as the plain matmul that XLA runs fastest on a CPU.
    """
    y = (x @ p.qkv.reshape(x.shape[-1], -1)).reshape(x.shape[0], *p.qkv.shape[1:])
    y = tap.adapted("qkv", x, y)
    if p.qkv_bias is not None:
        y = y + p.qkv_bias
    if spec.kv_from is not None:
        return y.reshape(x.shape[0], -1, y.shape[-1]), None, None
    return y[:, :, :-2].reshape(x.shape[0], -1, y.shape[-1]), y[:, :, -2], y[:, :, -1]


def _positioned(x: Array, norm: Any, spec: AttentionConfig, eps: float, at: Sequences) -> Array:
    """Heads normed, cut and turned, in the order that the layer asks for."""
    if not spec.qk_norm_after_rope:
        x = _normed(x, norm, spec, eps)
    x = _cut(x, spec)
    if spec.rope is not None:
        angles = at.angles[spec.rope, spec.head_dim]
        x = apply_rope(x, angles, interleaved=spec.rope.interleaved)
    return _normed(x, norm, spec, eps) if spec.qk_norm_after_rope else x


def _cut(x: Array, spec: AttentionConfig) -> Array:
    return x if spec.qkv_clip is None else jnp.clip(x, -spec.qkv_clip, spec.qkv_clip)


def _normed(x: Array, norm: Any, spec: AttentionConfig, eps: float) -> Array:
    if spec.qk_norm is None:
        return x
    if spec.qk_norm_over is not QKNormOver.PROJECTION:
        return normalise(x, norm, spec.qk_norm, eps)
    return normalise(x.reshape(x.shape[0], -1), norm, spec.qk_norm, eps).reshape(x.shape)


def _warmed(q: Array, temperature: QueryTemperature | None, positions_T: Array) -> Array:
    if temperature is None:
        return q
    periods = jnp.floor((positions_T + temperature.offset) / temperature.length)
    factor_T = 1.0 + temperature.beta * jnp.log1p(periods)
    return (q * factor_T[:, None, None]).astype(q.dtype)


def latent_attention(
    x: Array, p: MLAParams, spec: MLAConfig, at: Sequences, tap
) -> tuple[Array, LayerCache | None]:
    """Multi-head latent attention. Sites: q, latent, k (the shared rotary key), z, pattern.

    Scores are taken between latent vectors: a query goes through the keys' projection once, in
    place of every cached vector.
    """

    def turned(heads: Array) -> Array:
        if spec.rope is None:
            return heads
        angles = at.angles[spec.rope, spec.rope_dim]
        return apply_rope(heads, angles, interleaved=spec.rope.interleaved)

    q = _latent_queries(x, p, spec, tap)
    q = jnp.concatenate([q[..., : spec.nope_dim], turned(q[..., spec.nope_dim :])], axis=-1)
    q = tap("q", _warmed(q, spec.temperature, at.positions_T))
    down = tap.adapted("kv_down", x, x @ p.kv_down)
    down = down if p.kv_down_bias is None else down + p.kv_down_bias
    latent_TC = normalise(down[:, : spec.kv_rank], p.latent_norm, NormKind.RMS, spec.latent_eps)
    latent_TC = tap("latent", latent_TC)
    rotary_T1r = tap("k", turned(down[:, None, spec.kv_rank :]))
    q_TNC = _through_keys(q[..., : spec.nope_dim], p, spec, tap)
    out_TNC, cache = at.attend(
        jnp.concatenate([q_TNC, q[..., spec.nope_dim :]], axis=-1),
        jnp.concatenate([latent_TC[:, None], rotary_T1r], axis=-1),
        latent_TC[:, None],
        spec=spec.core,
        tap_pattern=tap.pattern(),
    )
    z_TM = tap("z", _values(out_TNC, p, spec, tap)).reshape(x.shape[0], -1)
    out = tap.adapted("o", z_TM, z_TM @ p.o.reshape(-1, x.shape[-1]))
    return (out if p.o_bias is None else out + p.o_bias), cache


def _through_keys(q_TNn: Array, p: MLAParams, spec: MLAConfig, tap) -> Array:
    """Queries `[T, N, C]` that are scored against latent vectors. A token's keys are of its own
    request, and so of its own adapter."""
    n = spec.nope_dim
    q_TNC = jnp.einsum("TNn,CNn->TNC", q_TNn, p.kv_up[..., :n])
    if (found := tap.low_rank("kv_up")) is None:
        return q_TNC
    change, factors_TR = found
    q_TNR = jnp.einsum("TNn,RNn->TNR", q_TNn, change.b[..., :n]) * factors_TR[:, None]
    return q_TNC + jnp.einsum("TNR,CR->TNC", q_TNR, change.a).astype(q_TNC.dtype)


def _values(out_TNC: Array, p: MLAParams, spec: MLAConfig, tap) -> Array:
    """Each head's output `[T, N, V]` out of the latent vectors that it attended to."""
    n = spec.nope_dim
    z_TNV = jnp.einsum("TNC,CNV->TNV", out_TNC, p.kv_up[..., n:])
    if (found := tap.low_rank("kv_up")) is None:
        return z_TNV
    change, factors_TR = found
    out_TNR = jnp.einsum("TNC,CR->TNR", out_TNC, change.a) * factors_TR[:, None]
    return z_TNV + jnp.einsum("TNR,RNV->TNV", out_TNR, change.b[..., n:]).astype(z_TNV.dtype)


def _latent_queries(x: Array, p: MLAParams, spec: MLAConfig, tap) -> Array:
    """`[T, N, n + r]`, through the queries' own rank where they have one."""
    if p.q_down is not None:
        x = tap.adapted("q_down", x, x @ p.q_down)
        x = x if p.q_down_bias is None else x + p.q_down_bias
        x = normalise(x, p.q_norm, NormKind.RMS, spec.latent_eps)
    q = (x @ p.q.reshape(x.shape[-1], -1)).reshape(-1, spec.num_heads, spec.head_dim)
    return tap.adapted("q", x, q)
