"""The arrays of a cache: their shapes, their bytes, and that each has memory of its own."""

import jax
import numpy as np
import pytest

from ferrum_jax.kv import cache_bytes, make_cache
from ferrum_jax.types import DataType, KVCacheConfig, ResourceExhausted
from tests.kv.models import model


@pytest.mark.parametrize("dtype", list(DataType))
def test_shapes_dtypes_and_bytes_per_layer(dtype):
    config, kv = model((2, 8), (1, 16), (4, 4)), KVCacheConfig(5, 4, dtype)
    cache = make_cache(config, kv)
    assert [layer.k_pages.shape for layer in cache.layers] == [
        (5, 4, 2, 8),
        (5, 4, 1, 16),
        (5, 4, 4, 4),
    ]
    leaves = jax.tree_util.tree_leaves(cache)
    assert len(leaves) == 6
    for leaf in leaves:
        assert leaf.dtype == dtype.value
        assert not np.asarray(leaf, np.float32).any()
    assert cache_bytes(config, kv) == cache.nbytes == 5 * 4 * 48 * 2 * dtype.itemsize
    assert (cache.num_pages, cache.page_size) == (5, 4)


def test_no_two_arrays_share_memory():
    cache = make_cache(model((2, 8), (2, 8)), KVCacheConfig(3, 4, DataType.FLOAT32))
    addresses = [leaf.unsafe_buffer_pointer() for leaf in jax.tree_util.tree_leaves(cache)]
    assert len(set(addresses)) == 4


def test_a_cache_that_the_device_cannot_hold_names_its_bytes():
    # 2^60 bytes: beyond any address space, so refused before memory is touched.
    kv = KVCacheConfig(2**31 - 1, 2**10, DataType.FLOAT32)
    config = model((2**8, 2**8))
    with pytest.raises(ResourceExhausted, match=r"takes [\d,]{20,} bytes.*num_pages"):
        make_cache(config, kv)
