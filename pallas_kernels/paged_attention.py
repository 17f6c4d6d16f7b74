"""Attention over a pool of key and value pages, for ragged queries: the package's one function."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.backward import attend_backward
from pallas_kernels.checks import check_arrays, check_rules, refusal
from pallas_kernels.decode import Singles, decode
from pallas_kernels.online import Pool, float8_bits
from pallas_kernels.prefill import prefill
from pallas_kernels.reference import attend_reference
from pallas_kernels.rules import Rules, token_places
from pallas_kernels.tuning import Tuning

STATIC = (
    "scale",
    "window",
    "chunk",
    "soft_cap",
    "alibi_rounded",
    "value_dim",
    "return_lse",
    "implementation",
    "interpret",
    "tuning",
)


@partial(jax.jit, static_argnames=STATIC)
def paged_attention(
    q: jax.Array,
    k_pages: jax.Array,
    v_pages: jax.Array | None,
    block_tables: jax.Array,
    context_lens: jax.Array,
    query_starts: jax.Array,
    *,
    scale: float,
    window: int | None = None,
    chunk: int | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    alibi_slopes: jax.Array | None = None,
    alibi_rounded: bool = False,
    k_scales: jax.Array | None = None,
    v_scales: jax.Array | None = None,
    value_dim: int | None = None,
    return_lse: bool = False,
    implementation: str = "auto",
    interpret: bool = False,
    tuning: Tuning | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Attention of ragged queries over paged keys and values: `[T, N, V]` in q's dtype.

    Row r has the tokens `[query_starts[r], query_starts[r + 1])` of q: the last tokens of its
    context, whose keys and values its pages already hold. Prefill chunks, decodes and rows without
    a token may stand beside one another. Tokens of no row give zeros.

    With as many rows as tokens every token is attended for by itself, whatever its row holds: its
    result then has the same bits in any batch and with any cut of its prompt.

    Args:
        q: `[T, N, H]` in bfloat16, float16 or float32.
        k_pages: `[P, page, K, H]` in one of those, or int8 or float8_e4m3fn with scales (uint8 is
            taken for the bits of the latter); K divides N.
        v_pages: `[P, page, K, V]` likewise. None: a value is the beginning of its key (latent
            attention), `value_dim` elements of it.
        block_tables: int32 `[R, B]`; the pages of each row, in order. Entries beyond a row's
            context, or before its window, are not read.
        context_lens: int32 `[R]`, at most B * page; each row's tokens, its queries among them.
        query_starts: int32 `[R + 1]`, growing.
        scale: factor of the scores.
        window: a query sees its last `window` keys only, its own among them.
        chunk: a query sees the keys of its own block of so many positions only (Llama 4).
        soft_cap: scores become `soft_cap * tanh(score / soft_cap)`.
        sinks: `[N]`; a score per query head that takes part in the softmax and has no value.
        alibi_slopes: `[N]`; a score loses so much for each position of its key's distance.
        alibi_rounded: slope times key position is added instead, rounded to bfloat16 and then
            scaled as a score is (Falcon).
        k_scales, v_scales: float32 `[P, page, K]`; what quantised elements are multiplied by.
        return_lse: also give the log-sum-exp of all scores and the sink, `[T, N]` float32; -inf
            for tokens of no row.
        implementation: `triton`; `mosaic`, for Hopper GPUs; `xla` (`paged_attention_reference`);
            `auto`: triton where the program is compiled for CUDA and the kernels can do it, and
            else xla.
        interpret: run the kernels without a GPU, in jax's interpreter.
        tuning: sizes of the kernels' tiles; None chooses them.

    Gradients: of q, sinks, and pages that are not quantised. Those of the kernels are computed by
    XLA from their results (`backward.py`), and are for reverse mode only.

    Raises:
        ValueError: arguments that do not fit together.
        NotImplementedError: what the implementation, or this jax, cannot do.
    """
    v_bits = None if v_pages is None else float8_bits(v_pages)
    pool = Pool(float8_bits(k_pages), v_bits, k_scales, v_scales, block_tables)
    value = value_dim if v_pages is None else v_pages.shape[-1]
    rules = Rules(scale, window, chunk, soft_cap, alibi_rounded, value or 0)
    check_rules(rules, head_dim=q.shape[-1], value_dim=value_dim, has_values=v_pages is not None)
    check_arrays(q, pool, context_lens, query_starts, sinks, alibi_slopes)
    arrays = Arrays(q, pool, query_starts, context_lens, _fp32(sinks), _fp32(alibi_slopes))
    out, lse = _attend(arrays, rules, tuning or Tuning(), implementation, interpret)
    return (out, lse) if return_lse else out


def paged_attention_reference(*args: Any, **options: Any) -> Any:
    """What `paged_attention` computes, in plain jnp: it gathers every page of each token's row."""
    return paged_attention(*args, **options, implementation="xla")


class Arrays(NamedTuple):
    """All arrays of a call."""

    q: jax.Array
    pool: Pool
    query_starts: jax.Array
    context_lens: jax.Array
    sinks: jax.Array | None
    slopes: jax.Array | None


def _fp32(x: jax.Array | None) -> jax.Array | None:
    return None if x is None else x.astype(jnp.float32)


def _attend(
    arrays: Arrays, rules: Rules, tuning: Tuning, implementation: str, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """The implementation that was asked for, or for `auto` the one of the platform."""
    wanted = "triton" if implementation == "auto" else implementation
    problem = refusal(wanted, arrays.q, arrays.pool, rules, arrays.slopes)
    if problem is not None and implementation != "auto":
        raise NotImplementedError(f"paged_attention: {problem}")

    def xla(arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        out, lse = attend_reference(*arrays, rules)
        return out.astype(arrays.q.dtype), lse.astype(jnp.float32)

    def kernels(arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        return _attend_kernels(arrays, rules, tuning, wanted == "mosaic", interpret)

    if wanted == "xla" or problem is not None:
        return xla(arrays)
    if implementation != "auto" or interpret:
        return kernels(arrays)
    return jax.lax.platform_dependent(arrays, cuda=kernels, default=xla)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _attend_kernels(
    arrays: Arrays, rules: Rules, tuning: Tuning, hopper: bool, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    q, pool, query_starts, context_lens, sinks, slopes = arrays
    (T, N, _), R = q.shape, context_lens.shape[0]
    out = (
        jnp.zeros((T, N, rules.value_dim), q.dtype),
        jnp.full((T, N), -jnp.inf, jnp.float32),
    )
    rest = (sinks, slopes)

    def decoded(singles: Singles, out: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        if hopper:
            from pallas_kernels.mosaic_decode import mosaic_decode

            return mosaic_decode(q, pool, singles, sinks, out, rules, tuning, interpret=interpret)
        return decode(q, pool, singles, *rest, out, rules, tuning, interpret=interpret)

    if T == R:
        rows, positions, _ = token_places(query_starts, context_lens, T)
        return decoded(Singles(jnp.arange(T, dtype=jnp.int32), rows, positions), out)
    alone = jnp.diff(query_starts) == 1
    singles = Singles(
        tokens=jnp.minimum(query_starts[:-1], T - 1),
        rows=jnp.arange(R, dtype=jnp.int32),
        positions=jnp.where(alone, context_lens - 1, -1),
    )
    runs = (query_starts, context_lens)
    options = {"at_least": 2, "interpret": interpret}
    if hopper:
        from pallas_kernels.mosaic_prefill import mosaic_prefill

        out = mosaic_prefill(q, pool, *runs, sinks, out, rules, tuning, **options)
    else:
        out = prefill(q, pool, *runs, *rest, out, rules, tuning, **options)
    return decoded(singles, out)


def _attend_forward(
    arrays: Arrays, rules: Rules, tuning: Tuning, hopper: bool, interpret: bool
) -> tuple:
    results = _attend_kernels(arrays, rules, tuning, hopper, interpret)
    return results, (arrays, results)


def _attend_backward(
    rules: Rules, tuning: Tuning, hopper: bool, interpret: bool, saved: tuple, gradients: tuple
) -> tuple:
    del tuning, hopper, interpret
    arrays, results = saved
    pool = arrays.pool
    d_q, d_k, d_v, d_sinks = attend_backward(
        *arrays, results=results, gradients=gradients, rules=rules
    )

    def like(gradient: jax.Array | None, array: jax.Array | None) -> jax.Array | None:
        if array is None or gradient is None or not jnp.issubdtype(array.dtype, jnp.floating):
            return None
        return gradient.astype(array.dtype)

    d_pool = Pool(like(d_k, pool.k), like(d_v, pool.v), None, None, None)
    d_sinks = like(d_sinks, arrays.sinks)
    nothing = dict.fromkeys(arrays._fields)
    return (
        arrays._replace(**nothing | {"q": like(d_q, arrays.q), "pool": d_pool, "sinks": d_sinks}),
    )


_attend_kernels.defvjp(_attend_forward, _attend_backward)
