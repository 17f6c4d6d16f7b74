"""The arrays of a paged KV-cache, and the memory that they take.

Dimension key: P pages, K kv heads, H head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ferrum_jax.types import (
    DataType,
    KVCache,
    KVCacheConfig,
    LayerCache,
    LayerSpec,
    ModelConfig,
    ResourceExhausted,
)

SCALE_BYTES = 4
"""Of the float32 scale that a quantised cache keeps per token and kv head."""


def make_cache(config: ModelConfig, kv: KVCacheConfig) -> KVCache:
    """An empty cache on the default device: per layer, keys and values `[P, page_size, K, H]`.

    A quantised one has their scales beside them, float32 `[P, page_size, K]`.
    Every array has memory of its own, so that a step can be given all of them to overwrite.

    Raises:
        ResourceExhausted: the device cannot hold it.
    """
    try:
        return KVCache(layers=tuple(_make_layer(spec, kv) for spec in config.layers))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ResourceExhausted(
            f"the KV-cache of {kv.num_pages} pages takes {cache_bytes(config, kv):,} bytes, more "
            "than the device has free; lower EngineConfig.num_pages or memory_fraction"
        ) from error


def cache_bytes(config: ModelConfig, kv: KVCacheConfig) -> int:
    """Bytes of the arrays that `make_cache` makes."""
    return kv.num_pages * kv.page_size * token_bytes(config, kv.dtype)


def token_bytes(config: ModelConfig, dtype: DataType) -> int:
    """Bytes of one token's keys and values in all layers, their scales counted."""
    return sum(layer_token_bytes(spec, dtype) for spec in config.layers)


def layer_token_bytes(spec: LayerSpec, dtype: DataType) -> int:
    """Bytes of one token's keys and values in one layer, their scales counted."""
    head = spec.attention.head_dim * dtype.itemsize + (SCALE_BYTES if dtype.quantised else 0)
    return 2 * spec.attention.num_kv_heads * head


def _make_layer(spec: LayerSpec, kv: KVCacheConfig) -> LayerCache:
    shape = (kv.num_pages, kv.page_size, spec.attention.num_kv_heads)
    pages = (*shape, spec.attention.head_dim)
    return LayerCache(
        k_pages=jnp.zeros(pages, kv.dtype.stored),
        v_pages=jnp.zeros(pages, kv.dtype.stored),
        k_scales=jnp.zeros(shape, jnp.float32) if kv.dtype.quantised else None,
        v_scales=jnp.zeros(shape, jnp.float32) if kv.dtype.quantised else None,
    )
