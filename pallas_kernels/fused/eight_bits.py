"""Heads of keys and values in eight bits, inside a kernel or outside.

    scale = max |x| / largest        largest = 127 (int8) or 448 (float8_e4m3fn)
    value = round(x / scale)         to the nearest number, ties to even

The scale is 1 where it would be below the smallest normal float32. A head with a nan or an infinity
in it has scale nan and values zero. These are the rules of `ferrum_jax/attention/quantize.py`, and
interpreted the bits are the same; on a GPU Triton's reciprocal of a scale may be off in its last
places, and a number near the middle between two values become the other one.

Rounding is integer arithmetic: Pallas-Triton cannot round, and GPUs older than float8 do not know
the format. A number plus 1.5 * 2^23 units lies where neighbouring float32 are one unit apart: the
addition rounds it to whole units, to the nearest and ties to even, and they are the sum's lowest
bits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0, "uint8": 448.0}
"""The largest magnitude of a value; uint8 holds the bits of float8_e4m3fn."""
SMALLEST_SCALE = float(jnp.finfo(jnp.float32).tiny)
E4M3_SUBNORMAL_EXPONENT = -9
"""Of the distance between numbers below the smallest normal one."""
E4M3_SMALLEST_NORMAL = 2.0**-6
DROPPED = 20
"""Bits of a float32's fraction that e4m3, with 3 of 23, does not have."""


def magnitudes(x: jax.Array) -> jax.Array:
    """|x| in fp32; a nan is an infinity, for a maximum on a GPU passes over nan."""
    size = jnp.abs(x.astype(jnp.float32))
    return jnp.where(size < jnp.inf, size, jnp.inf)


def scales_of(top: jax.Array, largest: float) -> jax.Array:
    """The scales of heads whose largest magnitudes are `top`."""
    scales = top * jnp.float32(1 / largest)
    scales = jnp.where(scales < SMALLEST_SCALE, 1.0, scales)
    return jnp.where(top < jnp.inf, scales, jnp.nan)


def ratios(x: jax.Array, scales: jax.Array, largest: float) -> jax.Array:
    """Elements `[..., H]` over their heads' scales `[...]`, before they are rounded, fp32."""
    # A product, as one division a head is cheaper than H; min and max keep it from being fused
    # with the rounding that follows.
    ratio = x.astype(jnp.float32) * (1.0 / scales)[..., None]
    ratio = jnp.minimum(jnp.maximum(ratio, -largest), largest)
    return jnp.where((scales == scales)[..., None], ratio, 0.0)


def nearest(x: jax.Array, exponent: int = 0) -> jax.Array:
    """`x / 2^exponent` rounded to the nearest int32, ties to even; for magnitudes below 2^22."""
    magic = 1.5 * 2.0 ** (23 + exponent)
    magic_bits = (127 + 23 + exponent) << 23 | 1 << 22
    return _int_bits(x + magic) - magic_bits


def e4m3_bits(x: jax.Array) -> jax.Array:
    """float32 of magnitudes up to 448 as the uint8 bits of float8_e4m3fn, ties to even.

    A normal number's exponent and fraction are one integer: half a unit less one is added to it,
    and one more where the last bit that stays is odd; a carry out of the fraction raises the
    exponent, as it must. e4m3 has its bias at 7, float32 at 127.
    """
    bits = _int_bits(x)
    magnitude = bits & 0x7FFFFFFF
    odd = (magnitude >> DROPPED) & 1
    half = (1 << (DROPPED - 1)) - 1
    normal = ((magnitude + (odd + half)) >> DROPPED) - ((127 - 7) << 3)
    subnormal = nearest(jnp.abs(x), E4M3_SUBNORMAL_EXPONENT)
    code = jnp.where(jnp.abs(x) < E4M3_SMALLEST_NORMAL, subnormal, normal)
    return (code | ((bits >> 24) & 0x80)).astype(jnp.uint8)


def _int_bits(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, jnp.int32)
