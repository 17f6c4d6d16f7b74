"""The arrays of a cache: their shapes, their bytes, and that each has memory of its own."""

import jax
import numpy as np
import pytest

from ferrum_jax.kv import cache_bytes, make_cache
from ferrum_jax.types import DataType, KVCacheConfig, ResourceExhausted
from tests.kv.models import model

SIZES = ((2, 8), (1, 16), (4, 4))
"""Kv heads and head sizes of three layers: 48 elements a token, in 7 heads."""


@pytest.mark.parametrize("dtype", [d for d in DataType if not d.quantised])
def test_shapes_dtypes_and_bytes_per_layer(dtype):
    config, kv = model(*SIZES), KVCacheConfig(5, 4, dtype)
    cache = make_cache(config, kv)
    assert [layer.k_pages.shape for layer in cache.layers] == [(5, 4, *size) for size in SIZES]
    leaves = jax.tree_util.tree_leaves(cache)
    assert len(leaves) == 6
    for leaf in leaves:
        assert leaf.dtype == dtype.stored
        assert not np.asarray(leaf, np.float32).any()
    assert cache_bytes(config, kv) == cache.nbytes == 5 * 4 * 48 * 2 * dtype.itemsize
    assert (cache.num_pages, cache.page_size) == (5, 4)


@pytest.mark.parametrize(
    ("dtype", "stored"), [(DataType.INT8, "int8"), (DataType.FLOAT8_E4M3FN, "uint8")]
)
def test_a_quantised_cache_has_scales_and_counts_them(dtype, stored):
    config, kv = model(*SIZES), KVCacheConfig(5, 4, dtype)
    cache = make_cache(config, kv)
    for layer, size in zip(cache.layers, SIZES, strict=True):
        for pages, scales in ((layer.k_pages, layer.k_scales), (layer.v_pages, layer.v_scales)):
            assert (pages.shape, pages.dtype) == ((5, 4, *size), stored)
            assert (scales.shape, scales.dtype) == ((5, 4, size[0]), np.float32)
    leaves = jax.tree_util.tree_leaves(cache)
    assert len(leaves) == 12
    assert all(leaf.shape[0] == 5 and not np.asarray(leaf).any() for leaf in leaves)
    assert cache_bytes(config, kv) == cache.nbytes == 5 * 4 * 2 * (48 + 7 * 4)
    assert (cache.num_pages, cache.page_size) == (5, 4)


@pytest.mark.parametrize(("dtype", "count"), [(DataType.FLOAT32, 4), (DataType.INT8, 8)])
def test_no_two_arrays_share_memory(dtype, count):
    cache = make_cache(model((2, 8), (2, 8)), KVCacheConfig(3, 4, dtype))
    addresses = [leaf.unsafe_buffer_pointer() for leaf in jax.tree_util.tree_leaves(cache)]
    assert len(set(addresses)) == count


def test_a_cache_that_the_device_cannot_hold_names_its_bytes():
    # 2^60 bytes: beyond any address space, so refused before memory is touched.
    kv = KVCacheConfig(2**31 - 1, 2**10, DataType.FLOAT32)
    config = model((2**8, 2**8))
    with pytest.raises(ResourceExhausted, match=r"takes [\d,]{20,} bytes.*num_pages"):
        make_cache(config, kv)
