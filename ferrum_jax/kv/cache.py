"""The arrays of a paged KV-cache, and the memory that they take.

Dimension key: P pages, K kv heads, H head size.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ferrum_jax.types import (
    AttentionConfig,
    DataType,
    KVCache,
    KVCacheConfig,
    LayerCache,
    LayerSpec,
    MLAConfig,
    ModelConfig,
    ResourceExhausted,
)

SCALE_BYTES = 4
"""Of the float32 scale that a quantised cache keeps per token and kv head."""


def make_cache(config: ModelConfig, kv: KVCacheConfig, *, num_slots: int = 0) -> KVCache:
    """An empty cache on the default device: per layer, keys and values `[P, page_size, K, H]`, and
    of recurrent layers a state for each of `num_slots` slots and for padding.

    A quantised one has their scales beside them, float32 `[P, page_size, K]`.
    Every array has memory of its own, so that a step can be given all of them to overwrite.

    Raises:
        ResourceExhausted: the device cannot hold it.
    """
    try:
        states = tuple(_make_state(spec, num_slots + 1) for spec in config.layers)
        return KVCache(
            layers=tuple(_make_layer(spec, kv) for spec in config.layers),
            states=states if config.is_recurrent else (),
            num_pages=kv.num_pages,
            page_size=kv.page_size,
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ResourceExhausted(
            f"the KV-cache of {kv.num_pages} pages takes {cache_bytes(config, kv):,} bytes and "
            f"{num_slots} recurrent states {state_bytes(config, num_slots):,}, more than the "
            "device has free; lower EngineConfig.num_pages, memory_fraction or max_num_seqs"
        ) from error


def cache_bytes(config: ModelConfig, kv: KVCacheConfig) -> int:
    """Bytes of the pages that `make_cache` makes; recurrent layers' states come to them."""
    return kv.num_pages * kv.page_size * token_bytes(config, kv.dtype)


def token_bytes(config: ModelConfig, dtype: DataType) -> int:
    """Bytes of one token's keys and values in all layers, their scales counted."""
    return sum(layer_token_bytes(spec, dtype) for spec in config.layers)


def layer_token_bytes(spec: LayerSpec, dtype: DataType) -> int:
    """Bytes of one token's keys and values in one layer, their scales counted."""
    held = _held(spec)
    if held is None:
        return 0
    scale = SCALE_BYTES if dtype.quantised else 0
    key = held.head_dim * dtype.itemsize + scale
    value = 0 if held.values_in_keys else held.value_size * dtype.itemsize + scale
    return held.num_kv_heads * (key + value)


def slot_bytes(config: ModelConfig) -> int:
    """Bytes of one sequence's states in all recurrent layers."""
    shapes = [shape for spec in config.layers if spec.recurrent for shape in _state(spec).values()]
    return sum(4 * math.prod(shape) for shape in shapes)


def state_bytes(config: ModelConfig, num_slots: int) -> int:
    """Bytes of the states that `make_cache` makes: of so many sequences, and of padding."""
    return slot_bytes(config) * (num_slots + 1)


def _held(spec: LayerSpec) -> AttentionConfig | None:
    """The attention whose keys and values a layer keeps; None where it keeps none of its own."""
    attention = spec.attention
    if isinstance(attention, MLAConfig):
        return attention.core
    return None if attention is None or attention.kv_from is not None else attention


def _state(spec: LayerSpec) -> dict[str, tuple[int, ...]]:
    return {} if spec.recurrent is None else spec.recurrent.state_shapes


def _make_state(spec: LayerSpec, rows: int) -> dict[str, jax.Array] | None:
    shapes = _state(spec)
    return {k: jnp.zeros((rows, *v), jnp.float32) for k, v in shapes.items()} or None


def _make_layer(spec: LayerSpec, kv: KVCacheConfig) -> LayerCache | None:
    held = _held(spec)
    if held is None:
        return None
    shape = (kv.num_pages, kv.page_size, held.num_kv_heads)
    scaled, apart = kv.dtype.quantised, not held.values_in_keys
    return LayerCache(
        k_pages=jnp.zeros((*shape, held.head_dim), kv.dtype.stored),
        v_pages=jnp.zeros((*shape, held.value_size), kv.dtype.stored) if apart else None,
        k_scales=jnp.zeros(shape, jnp.float32) if scaled else None,
        v_scales=jnp.zeros(shape, jnp.float32) if scaled and apart else None,
    )
