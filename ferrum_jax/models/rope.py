"""Rotary position embedding (Su et al. 2021) and the ways it is stretched to longer contexts.

Frequencies that do not depend on the sequence's length are computed on the host in numpy and
enter the program as constants; angles, sines and cosines are fp32.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrum_jax.types import RopeConfig, RopeKind, RopeScaling

Angles = tuple[Float[Array, "T rot"], Float[Array, "T rot"]]


def rope_angles(
    positions: Int[Array, " T"], rope: RopeConfig, head_dim: int, length: int | None
) -> Angles:
    """Cosines and sines `[T, rotary_dim]` in fp32, attention factor included.

    Args:
        length: sequence length at which length-dependent kinds are evaluated; None: one more than
            the largest of `positions`.
    """
    proportional = rope.scaling.kind is RopeKind.PROPORTIONAL
    dim = head_dim if proportional else int(head_dim * rope.rotary_fraction)
    if length is None and rope.scaling.depends_on_length:
        length_now = jnp.max(positions) + 1
    else:
        length_now = length
    freqs, factor = _frequencies(rope, dim, length_now)
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(freqs, jnp.float32)[None, :]
    if rope.interleaved:
        angles = jnp.repeat(angles, 2, axis=-1)
    else:
        angles = jnp.concatenate([angles, angles], axis=-1)
    # XLA on a CPU would compute them anew for every layer and head: 1.8 ms a layer in place of 0.3
    # for 512 tokens and 12 heads of 64.
    return jax.lax.optimization_barrier((jnp.cos(angles) * factor, jnp.sin(angles) * factor))


def apply_rope(
    x: Float[Array, "T heads H"], angles: Angles, *, interleaved: bool = False
) -> Float[Array, "T heads H"]:
    """Rotate the first `rotary_dim` elements of each head, in the pairs of the rope's kind."""
    cos, sin = angles
    dim = cos.shape[-1]
    x32 = x[..., :dim].astype(jnp.float32)
    if interleaved:
        rotated = jnp.stack([-x32[..., 1::2], x32[..., ::2]], axis=-1).reshape(x32.shape)
    else:
        first, second = jnp.split(x32, 2, axis=-1)
        rotated = jnp.concatenate([-second, first], axis=-1)
    turned = x32 * cos[:, None, :] + rotated * sin[:, None, :]
    if dim == x.shape[-1]:
        return turned.astype(x.dtype)
    return jnp.concatenate([turned.astype(x.dtype), x[..., dim:]], axis=-1)


def _frequencies(rope: RopeConfig, dim: int, length):
    """Inverse frequencies `[dim / 2]` and the factor on cosine and sine."""
    s = rope.scaling
    base = _inverse(rope.theta, dim)
    if s.kind is RopeKind.DEFAULT:
        return base, 1.0
    if s.kind is RopeKind.PROPORTIONAL:
        turning = int(rope.rotary_fraction * dim // 2)
        stretched = base / np.float32(s.factor)
        return np.where(np.arange(dim // 2) < turning, stretched, 0).astype(np.float32), 1.0
    if s.kind is RopeKind.LINEAR:
        return base / np.float32(s.factor), 1.0
    if s.kind is RopeKind.LLAMA3:
        return _llama3(base, s), 1.0
    if s.kind is RopeKind.YARN:
        return _yarn(rope.theta, base, dim, s)
    if s.kind is RopeKind.DYNAMIC:
        return _dynamic(rope.theta, dim, s, length), 1.0
    return _longrope(base, s, length)


def _inverse(theta: float, dim: int) -> np.ndarray:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (1.0 / np.power(np.float32(theta), exponents)).astype(np.float32)


def _llama3(base: np.ndarray, s: RopeScaling) -> np.ndarray:
    """Llama 3.1: long wavelengths divided by the factor, short ones kept, a ramp between."""
    wavelength = 2 * math.pi / base
    turns = s.original_max_positions / wavelength
    # Equal factors leave no ramp; what is computed for it is then never taken.
    ramp = (s.high_freq_factor - s.low_freq_factor) or 1.0
    smooth = (turns - s.low_freq_factor) / ramp
    blended = (1 - smooth) * base / s.factor + smooth * base
    out = np.where(turns < s.low_freq_factor, base / s.factor, blended)
    return np.where(turns > s.high_freq_factor, base, out).astype(np.float32)


def _yarn(theta: float, base: np.ndarray, dim: int, s: RopeScaling) -> tuple[np.ndarray, float]:
    """YaRN (Peng et al. 2023), equations 17 to 22."""

    def dim_of(turns: float) -> float:
        return (
            dim * math.log(s.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))
        )

    low, high = dim_of(s.beta_fast), dim_of(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    freqs = base / s.factor * ramp + base * (1 - ramp)
    return freqs.astype(np.float32), _yarn_factor(s)


def _yarn_factor(s: RopeScaling) -> float:
    if s.attention_factor is not None:
        return s.attention_factor

    def mscale(weight: float) -> float:
        return 1.0 if s.factor <= 1 else 0.1 * weight * math.log(s.factor) + 1.0

    if s.mscale and s.mscale_all_dim:
        return mscale(s.mscale) / mscale(s.mscale_all_dim)
    return mscale(1.0)


def _dynamic(theta: float, dim: int, s: RopeScaling, length):
    """NTK-aware scaling that grows with the sequence beyond its trained length."""
    limit = s.original_max_positions
    length = jnp.maximum(length, limit).astype(jnp.float32)
    stretched = theta * (s.factor * length / limit - (s.factor - 1)) ** (dim / (dim - 2))
    exponents = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    return 1.0 / stretched**exponents


def _longrope(base: np.ndarray, s: RopeScaling, length):
    """LongRoPE (Ding et al. 2024): per-dimension factors, one set within the trained length."""
    short = base / np.asarray(s.short_factor, np.float32)
    long = base / np.asarray(s.long_factor, np.float32)
    freqs = jnp.where(length > s.original_max_positions, long, short)
    if s.long_attention_factor is not None:
        within = length <= s.original_max_positions
        return freqs, jnp.where(within, s.attention_factor or 1.0, s.long_attention_factor)
    if s.attention_factor is not None:
        return freqs, s.attention_factor
    if s.factor <= 1:
        return freqs, 1.0
    return freqs, math.sqrt(1 + math.log(s.factor) / math.log(s.original_max_positions))
