"""Products with weights in bfloat16 or int8, outputs first, on a CPU that multiplies those itself.

What stands on the left is written as a few parts in the type of the weights; each part has its own
rows in one product, which reads the weights once. So float32 inputs lose nothing to the weights'
type, and sums of int8 are exact. In ms, for 101 million weights in 24 square matrices (jax 0.10.2,
two hardware threads of one core of a Sapphire Rapids; rows of the product, parts counted):

    rows                       2     4    16    32    64   128   512
    float32, outputs first    14    14    18    27    59   117   418
    bfloat16                   8     7     6    10    19    25   120
    int8                       4     5     4     4     9    14    70

and in vectors, for 38 million (two cores of an AMD EPYC of the fifth generation with AVX-512):

    rows                       1     2     8    16    32    64   128   512
    float32, outputs first     3     5     5     6     8    13    26   100
    bfloat16                         3     4     4     6    10    14    44
    int8                             2     2     4     5     9    16    56
    int8, jax 0.12.0.1               2     2     3     3     4     8    24

Dimension key: T rows, P parts, I inputs, O outputs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

MOST_ROWS_TURNED = 24
"""Rows up to which a step is faster with `[outputs, rows]`; behind them it is `[rows, outputs]`."""
MOST_TURNED_IN_VECTORS = {"bfloat16": 0, "int8": 12}
"""The same on a CPU without tiles. In bfloat16 decodes of 1, 8 and 16 sequences took 0.82, 0.90 and
0.97 of the time with `[rows, outputs]`; products of int8 of 24 rows 4.2 in place of 5.2 ms."""
LARGEST = {2: 127 * 2**8, 3: 127 * 2**16}
"""What the largest input of a row becomes as an integer of so many digits to the base 256."""
SMALLEST = 1e-30
"""Rows whose largest input is below it are rounded more coarsely."""
ALONG_INPUTS = (((1,), (1,)), ((), ()))
TURNS = jax.__version_info__ >= (0, 6)
"""Whether a product may be `[outputs, rows]` first: some programs of jax 0.5 fail with it."""


def narrow_product(
    x: Float[Array, "T I"], weights_OI: Array, turned_rows: int = MOST_ROWS_TURNED
) -> Float[Array, "T O"]:
    """`x @ weights.T` in float32, of weights in bfloat16 or int8 `[O, I]`.

    Up to `turned_rows` rows, parts counted, it is formed as `[O, T]`.

    Inputs of 16 bits have two digits beside int8 weights, so that what is lost of one is 2^-16 of
    the row's largest; inputs in float32 have three, and 2^-24.
    """
    parts, scales = _digits(x) if weights_OI.dtype == jnp.int8 else _bfloat16_parts(x)
    sums_PTO = _sums(parts, weights_OI, turned_rows).astype(jnp.float32)
    total = sums_PTO[-1] * scales[-1]
    for sums, scale in zip(sums_PTO[-2::-1], scales[-2::-1], strict=True):
        total += sums * scale
    return total


def _digits(x: Float[Array, "T I"]) -> tuple[Array, list[Array]]:
    """int8 `[P, T, I]`, and what each part counts in each row, `[T, 1]`; the largest first."""
    count = 3 if x.dtype == jnp.float32 else 2
    x = x.astype(jnp.float32)
    largest = jnp.maximum(jnp.max(jnp.abs(x), axis=1, keepdims=True), SMALLEST)
    rest = jnp.rint(x * (LARGEST[count] / largest)).astype(jnp.int32)
    digits = []
    for _ in range(count - 1):
        digit = ((rest + 128) & 255) - 128
        digits.append(digit)
        rest = (rest - digit) >> 8
    step = largest / LARGEST[count]
    parts = jnp.stack([rest, *reversed(digits)]).astype(jnp.int8)
    return parts, [step * 256.0**place for place in reversed(range(count))]


def _bfloat16_parts(x: Float[Array, "T I"]) -> tuple[Array, list[Array]]:
    """bfloat16 `[P, T, I]`: the inputs if they are in it, else three parts that add up to them."""
    if x.dtype == jnp.bfloat16:
        return x[None], [jnp.ones(())]
    rest, parts = x.astype(jnp.float32), []
    for _ in range(3):
        # The barrier keeps the rounding: XLA may compute with more places than are asked for.
        parts.append(jax.lax.optimization_barrier(rest.astype(jnp.bfloat16)))
        rest -= parts[-1].astype(jnp.float32)
    return jnp.stack(parts), [jnp.ones(())] * 3


def _sums(parts_PTI: Array, weights_OI: Array, turned_rows: int) -> Array:
    """`[P, T, O]`, int32 of int8 and float32 of bfloat16."""
    parts, rows, inputs = parts_PTI.shape
    x = no_single_row(parts_PTI.reshape(parts * rows, inputs))
    kind = jnp.int32 if weights_OI.dtype == jnp.int8 else jnp.float32
    sums = product_by_outputs(x, weights_OI, kind, turned=x.shape[0] <= turned_rows)
    return sums[: parts * rows].reshape(parts, rows, -1)


def no_single_row(x: Array) -> Array:
    """`x`, a row of zeros behind it where it has one row: XLA would multiply that one in floats,
    and take six to ten times as long."""
    if x.shape[0] > 1:
        return x
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 1), (0, 0))))


def product_by_outputs(
    x: Array, weights_OI: Array, kind: DTypeLike, *, turned: bool = True
) -> Array:
    """`x @ weights.T` of a kind, formed as `[outputs, rows]` if `turned` and where jax can."""
    if not (turned and TURNS):
        return jax.lax.dot_general(x, weights_OI, ALONG_INPUTS, preferred_element_type=kind)
    product = jax.lax.dot_general(weights_OI, x, ALONG_INPUTS, preferred_element_type=kind)
    # Without the barrier XLA turns it round into `x @ w`.
    return jax.lax.optimization_barrier(product).T
