"""Keys and values in eight bits: int8 or float8_e4m3fn, one float32 scale per token and kv head.

    scale = max |x| / largest        largest = 127 (int8) or 448 (e4m3)
    value = round(x / scale)         to the nearest number of the dtype, ties to even
    x     ~ value * scale

Symmetric, so that zero stays zero and a score or a weighted value needs one product with the
scale. Error: at most scale / 2 for int8; for e4m3 (Micikevicius et al. 2022, "FP8 formats for deep
learning": 4 exponent bits, 3 mantissa bits, no infinity) at most |x| / 16, or scale / 1024 where
that is more. One scale per token: what is written never changes when later tokens come, so a page
can be shared, copied or filled in chunks.

Dimension key: T tokens, K kv heads, H head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Num

from ferrum_jax.types import DataType

LARGEST = {DataType.INT8: 127.0, DataType.FLOAT8_E4M3FN: 448.0}
"""The largest magnitude that a value takes."""


def quantise(
    x: Float[Array, "T K H"], dtype: DataType
) -> tuple[Num[Array, "T K H"], Float32[Array, "T K"]]:
    """Values of `dtype` (`int8` or `float8_e4m3fn`), and their scales.

    Computed in fp32. A head of zeros has scale 1; so has one whose scale would be below the
    smallest normal float32, and its values are zeros. A head with a nan or an infinity in it has
    scale nan and values zero: it is nan when it is read, and no value itself is ever nan.
    """
    x = x.astype(jnp.float32)
    top = jnp.max(jnp.abs(x), axis=-1)
    # Products, not quotients: XLA may divide in two ways, and a head must not depend on its batch.
    scales = top * (1 / LARGEST[dtype])
    scales = jnp.where(scales < jnp.finfo(jnp.float32).tiny, 1.0, scales)
    scales = jnp.where(jnp.isfinite(top), scales, jnp.nan)
    ratio = jnp.where(jnp.isfinite(top)[..., None], x * (1 / scales)[..., None], 0.0)
    ratio = jnp.clip(ratio, -LARGEST[dtype], LARGEST[dtype])
    if dtype is DataType.INT8:
        ratio = jnp.round(ratio)
    return ratio.astype(dtype.value), scales


def dequantise(values: Num[Array, "*S H"], scales: Float32[Array, "*S"]) -> Float32[Array, "*S H"]:
    """What quantised values are worth: values times their scales, in fp32."""
    return values.astype(jnp.float32) * scales[..., None]


def as_stored(values: Num[Array, "*S"], dtype: DataType) -> Num[Array, "*S"]:
    """Values of `dtype` in the form in which pages hold them (`DataType.stored`)."""
    return jax.lax.bitcast_convert_type(values, dtype.stored)


def from_stored(pages: Num[Array, "*S"], dtype: DTypeLike) -> Num[Array, "*S"]:
    """Stored values as numbers: quantised ones of a floating dtype, others of their own.

    Exact in float32, bfloat16 and float16: every value has at most 7 significant bits.

    The bits of an e4m3 number, moved by 7 places, are a float16 that is 2^8 times too small (the
    exponents' biases are 7 and 15), subnormal numbers included. nan, which no value is, reads as
    480. With XLA's own conversion of float8 a decode's attention took 1.2 times as long (16
    sequences of 2,048 tokens, 2 kv heads of 64, jax 0.10.2, 2 CPU cores).
    """
    if pages.dtype == jnp.int8:
        return pages.astype(dtype)
    if pages.dtype == jnp.uint16:
        return jax.lax.bitcast_convert_type(pages, jnp.bfloat16)
    if pages.dtype != jnp.uint8:
        return pages
    bits = pages.astype(jnp.uint16)
    bits = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
    return (jax.lax.bitcast_convert_type(bits, jnp.float16).astype(jnp.float32) * 256).astype(dtype)
