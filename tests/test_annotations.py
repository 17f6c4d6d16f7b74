"""The checks that pytest runs under do refuse wrong arrays, and nothing else."""

import jax
import jax.numpy as jnp
import pytest
from flax import struct
from jaxtyping import Array, Float, TypeCheckError, jaxtyped

import ferrum_jax as fj
from ferrum_jax.types import AttentionConfig
from tests.annotations import checked


@jaxtyped(typechecker=checked)
def add(x: Float[Array, " T"], y: Float[Array, " T"], scale: int) -> Float[Array, " T"]:
    return (x + y) * scale


def test_shapes_and_dtypes_are_checked():
    ones = jnp.ones(3)
    with pytest.raises(TypeCheckError):
        add(ones, jnp.ones(4), 1)
    with pytest.raises(TypeCheckError):
        add(ones, jnp.ones(3, jnp.int32), 1)


def test_plain_values_reach_the_librarys_own_validation():
    assert add(jnp.ones(3), jnp.ones(3), 0.5)[0] == 1
    with pytest.raises(fj.RequestError):
        fj.SamplingParams(top_k=1.5)  # type: ignore[arg-type]


def test_the_library_is_checked():
    spec = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4, scale=1.0, rope=None)
    q, k = jnp.ones((3, 2, 4)), jnp.ones((3, 1, 4))
    positions = jnp.arange(3)
    assert fj.dense_attention(q, k, k, None, positions, spec)[0].shape == q.shape
    with pytest.raises(TypeCheckError):
        fj.dense_attention(q, k[:2], k, None, positions, spec)


def test_pytrees_may_hold_anything():
    @struct.dataclass
    class Pair:
        x: jax.Array

    tree = jax.tree_util.tree_map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), Pair(jnp.ones(2))
    )
    assert isinstance(tree.x, jax.ShapeDtypeStruct)
