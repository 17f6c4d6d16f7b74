"""How many pages a cache gets."""

from __future__ import annotations

import math

from ferrum_jax.kv.cache import state_bytes, token_bytes
from ferrum_jax.types import DataType, EngineConfig, KVCacheConfig, ModelConfig, ResourceExhausted

SMALLEST_POOL = 2
"""Pages of the smallest pool: the trash page and one that a sequence can own."""
UNKNOWN_MEMORY = 2**30
"""Bytes that a cache may take where the platform does not tell how many are free."""


def plan_cache(
    config: ModelConfig,
    engine: EngineConfig,
    *,
    dtype: DataType,
    max_model_len: int,
    free_bytes: int | None,
) -> KVCacheConfig:
    """Settle the shape of the cache.

    `EngineConfig.num_pages` is taken as it stands. Without it the cache gets `memory_fraction` of
    the free memory, but no more than `max_num_seqs` sequences of `max_model_len` tokens fill. It
    may be too small for one such sequence: then shorter ones run.

    Args:
        dtype: of the weights; the cache's own when `EngineConfig.kv_dtype` is `auto`.
        max_model_len: tokens of the longest sequence.
        free_bytes: free memory of the device; None where it is not known, which allows 1 GiB.

    Raises:
        ResourceExhausted: `num_pages` pages exceed the free memory, or not even two pages (the
            trash page and one more) fit the memory allowed.
    """
    kv_dtype = dtype if engine.kv_dtype == "auto" else DataType.parse_cache(engine.kv_dtype)
    # A model without keys and values has pages in the accounts alone.
    page_bytes = engine.page_size * token_bytes(config, kv_dtype)
    if free_bytes is not None:
        free_bytes = _without_states(config, engine, free_bytes)
    if engine.num_pages is None:
        num_pages = engine.max_num_seqs * math.ceil(max_model_len / engine.page_size) + 1
        if page_bytes:
            num_pages = min(num_pages, _allowed_bytes(engine, free_bytes) // page_bytes)
        if num_pages < SMALLEST_POOL:
            raise ResourceExhausted(_too_small(config, engine, kv_dtype, free_bytes))
    else:
        num_pages = engine.num_pages
        if free_bytes is not None and num_pages * page_bytes > free_bytes:
            raise ResourceExhausted(_too_large(num_pages, page_bytes, free_bytes))
    return KVCacheConfig(num_pages=num_pages, page_size=engine.page_size, dtype=kv_dtype)


def host_pages(config: ModelConfig, engine: EngineConfig, kv: KVCacheConfig) -> int:
    """Swapped pages that `EngineConfig.swap_space` has room for; 0 without swapping."""
    if engine.preemption != "swap":
        return 0
    page_bytes = kv.page_size * token_bytes(config, kv.dtype)
    return int(engine.swap_space * 2**30) // max(page_bytes, 1)


def _without_states(config: ModelConfig, engine: EngineConfig, free_bytes: int) -> int:
    """What the states of recurrent layers leave.

    Raises:
        ResourceExhausted: they do not fit.
    """
    needed = state_bytes(config, engine.max_num_seqs)
    if needed > free_bytes:
        raise ResourceExhausted(
            f"the recurrent states of EngineConfig.max_num_seqs = {engine.max_num_seqs} sequences "
            f"take {needed:,} bytes and {free_bytes:,} are free on the device; lower max_num_seqs"
        )
    return free_bytes - needed


def _allowed_bytes(engine: EngineConfig, free_bytes: int | None) -> int:
    return UNKNOWN_MEMORY if free_bytes is None else int(engine.memory_fraction * free_bytes)


def _smallest_bytes(config: ModelConfig, engine: EngineConfig, kv_dtype: DataType) -> int:
    return SMALLEST_POOL * engine.page_size * token_bytes(config, kv_dtype)


def _too_large(num_pages: int, page_bytes: int, free_bytes: int) -> str:
    fitting = free_bytes // page_bytes
    remedy = (
        f"set it to at most {fitting}, or to None to have it chosen"
        if fitting >= SMALLEST_POOL
        else "lower EngineConfig.page_size or free device memory"
    )
    return (
        f"EngineConfig.num_pages = {num_pages} takes {num_pages * page_bytes:,} bytes "
        f"({page_bytes:,} a page) and {free_bytes:,} are free on the device; {remedy}"
    )


def _too_small(
    config: ModelConfig, engine: EngineConfig, kv_dtype: DataType, free_bytes: int | None
) -> str:
    """What is missing, and every single setting that would mend it."""
    needed, allowed = _smallest_bytes(config, engine, kv_dtype), _allowed_bytes(engine, free_bytes)
    remedies = []
    page_size = allowed * engine.page_size // needed
    if page_size >= 1:
        remedies.append(f"page_size = {page_size}")
    if free_bytes is None:
        remedies.append(f"num_pages = {SMALLEST_POOL} if the device has the memory")
    elif needed <= free_bytes:
        # Rounded up, so that the figure shown suffices.
        remedies.append(f"memory_fraction = {math.ceil(1000 * needed / free_bytes) / 1000:g}")
    for smaller in (DataType.BFLOAT16, DataType.INT8):
        if _smallest_bytes(config, engine, smaller) <= allowed:
            remedies.append(f'kv_dtype = "{smaller}"')
            break
    remedy = f"set EngineConfig {' or '.join(remedies)}" if remedies else "free device memory"
    source = (
        "the device does not tell how much is free"
        if free_bytes is None
        else f"memory_fraction = {engine.memory_fraction:g} of {free_bytes:,} free bytes"
    )
    return (
        f"a KV-cache of {SMALLEST_POOL} pages of {engine.page_size} tokens takes {needed:,} bytes "
        f"and {allowed:,} are allowed ({source}); {remedy}"
    )
