"""The paged KV-cache: how many pages, who owns them, and the arrays behind them."""

from ferrum_jax.kv.cache import cache_bytes, layer_token_bytes, make_cache, slot_bytes, state_bytes
from ferrum_jax.kv.manager import BlockTableManager
from ferrum_jax.kv.pool import BlockPool
from ferrum_jax.kv.sizing import host_pages, plan_cache

__all__ = [
    "BlockPool",
    "BlockTableManager",
    "cache_bytes",
    "host_pages",
    "layer_token_bytes",
    "make_cache",
    "plan_cache",
    "slot_bytes",
    "state_bytes",
]
