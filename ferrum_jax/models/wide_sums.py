"""Projections of bfloat16 weights on a CPU that multiplies bfloat16 itself.

Of `x @ w` in bfloat16 XLA makes a product of float32 copies on a CPU. Asked for float32 results it
takes the processor's own products (AMX, AVX-512), whose sums are float32 anyway; rounded to
bfloat16 behind it, the result is what it was. In ms, for 75 million weights in 84 matrices and a
head of 25 million (jax 0.10.2, two hardware threads of one core of a Sapphire Rapids):

    rows                           1     2     4     8    16    32    64   128   512
    x @ w                        145   190   186   202   217   241   239   352   937
    a WideSums                   166    26    39    30    33    37    46    82   271
    float32, outputs first        36    22    23    36    43    63    87   175   742

Prefill of 512 tokens took 0.39 of the time of `x @ w`. Copies that are outputs first are faster
still (`models/narrow.py`), so it is for models that have no room for them.

A `WideSums` stands where an array of weights stood and multiplies as it did, `x @ w`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ferrum_jax.models.narrow import no_single_row
from ferrum_jax.models.params import Params, path_name
from ferrum_jax.models.quantized import is_one_matrix, is_quantized


@struct.dataclass
class WideSums:
    """Weights `[inputs..., outputs...]` whose products are summed and returned in float32."""

    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def reshape(self, *shape: int) -> WideSums:
        """The same weights in another shape."""
        return replace(self, values=self.values.reshape(*shape))

    def __rmatmul__(self, x: Float[Array, "T I"]) -> Float[Array, "T O"]:
        return product_by_float32(no_single_row(x), self.values)[: x.shape[0]]


def product_by_float32(x: Float[Array, "T I"], w: Float[Array, "I O"]) -> Float[Array, "T O"]:
    """`x @ w` in its own dtype, rounded to it from float32."""
    product = jnp.matmul(x, w, preferred_element_type=jnp.float32)
    return product.astype(jnp.result_type(x, w))


def with_wide_sums(params: Params) -> Params:
    """The parameters, their projections in bfloat16 as `WideSums`; no weights are copied."""

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        is_matrix = not is_quantized(leaf) and is_one_matrix(path_name(path), leaf.shape)
        return WideSums(leaf) if is_matrix and leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_quantized)
