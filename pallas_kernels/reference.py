"""What the kernels compute, in plain jnp: for every backend and every dtype, slower.

Dimension key: T tokens, R rows, S key positions, N query heads, K kv heads, G = N / K, H head,
V value head.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.online import EXACT, Pool
from pallas_kernels.rules import Rules, first_key, token_places

TOKENS_AT_ONCE = 8
"""Tokens whose keys are gathered together; bounds the memory."""


def attend_reference(
    q: jax.Array,
    pool: Pool,
    query_starts: jax.Array,
    context_lens: jax.Array,
    sinks: jax.Array | None,
    slopes: jax.Array | None,
    rules: Rules,
) -> tuple[jax.Array, jax.Array]:
    """Attention `[T, N, V]` and its log-sum-exp `[T, N]`, in fp32, or fp64 where q is fp64.

    It gathers every page of each token's row and forms all weights.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    rows, positions, _ = token_places(query_starts, context_lens, q.shape[0])
    one = partial(_one_token, pool=pool, sinks=sinks, slopes=slopes, rules=rules, dtype=dtype)
    batch = min(TOKENS_AT_ONCE, q.shape[0])
    return lax.map(lambda token: one(*token), (q, rows, positions), batch_size=batch)


def numbers(pages: jax.Array, scales: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    """Stored keys or values as they are worth; uint8 are the bits of float8_e4m3fn."""
    if pages.dtype == jnp.uint8:
        pages = lax.bitcast_convert_type(pages, jnp.float8_e4m3fn)
    pages = pages.astype(dtype)
    return pages if scales is None else pages * scales[..., None].astype(dtype)


def biased(
    scores: jax.Array,
    keys: jax.Array,
    positions: jax.Array,
    slopes: jax.Array | None,
    rules: Rules,
) -> jax.Array:
    """Scaled scores `[..., N, S]` of keys at places, capped and with ALiBi."""
    if rules.soft_cap is not None:
        scores = rules.soft_cap * jnp.tanh(scores / rules.soft_cap)
    if slopes is None:
        return scores
    slopes = slopes.astype(scores.dtype)[:, None]
    if rules.alibi_rounded:
        bias = (slopes * keys).astype(jnp.bfloat16).astype(scores.dtype)
        return scores + bias * rules.scale
    return scores + slopes * (keys - positions[..., None, None]).astype(scores.dtype)


def _one_token(
    q_NH: jax.Array,
    row: jax.Array,
    position: jax.Array,
    *,
    pool: Pool,
    sinks: jax.Array | None,
    slopes: jax.Array | None,
    rules: Rules,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    pages, K = pool.tables[row], pool.k.shape[2]
    keys = jnp.arange(pages.shape[0] * pool.k.shape[1], dtype=jnp.int32)
    seen = (keys >= first_key(position, rules)) & (keys <= position)

    def gather(array: jax.Array, scales: jax.Array | None) -> jax.Array:
        x = numbers(array[pages], None if scales is None else scales[pages], dtype)
        return jnp.where(seen[:, None, None], x.reshape(-1, *x.shape[2:]), 0)

    k_SKH = gather(pool.k, pool.k_scales)
    v_SKV = k_SKH[..., : rules.value_dim] if pool.v is None else gather(pool.v, pool.v_scales)
    q_KGH = q_NH.reshape(K, -1, q_NH.shape[1]).astype(dtype)
    scores = rules.scale * jnp.einsum("KGH,SKH->KGS", q_KGH, k_SKH, precision=EXACT)
    scores = biased(scores.reshape(q_NH.shape[0], -1), keys, position, slopes, rules)
    scores = jnp.where(seen, scores, -jnp.inf)
    if sinks is not None:
        scores = jnp.concatenate([scores, sinks.astype(dtype)[:, None]], axis=1)
    # A token without a key (padding) has weights of zero; its gradient must be no nan either.
    valid = position >= 0
    scores = jnp.where(valid, scores, 0)
    lse_N = jax.nn.logsumexp(scores, axis=1)
    weights = jnp.where(valid, jnp.exp(scores - lse_N[:, None]), 0)[:, : keys.size]
    weights = weights.reshape(K, -1, keys.size)
    out = jnp.einsum("KGS,SKV->KGV", weights, v_SKV, precision=EXACT)
    return out.reshape(q_NH.shape[0], -1), jnp.where(valid, lse_N, -jnp.inf)
