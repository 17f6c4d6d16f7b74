"""Paged attention against dense: chunks, pages and neighbours must not show."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrum_jax.attention import dense_attention, paged_attention, paged_meta
from ferrum_jax.attention.layout import FEW, WIDEST
from ferrum_jax.attention.paged import MOST_HEADS_AT_ONCE
from ferrum_jax.attention.quantize import as_stored, dequantise, quantise
from ferrum_jax.types import AttentionConfig, DataType, LayerCache, StepBatch

PAGE, PAGES, TABLE = 4, 160, 100
BASE = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, scale=8**-0.5, rope=None)
SPECS = {
    "grouped": BASE,
    "one kv head": replace(BASE, num_kv_heads=1),
    "as many kv heads": replace(BASE, num_kv_heads=4),
    "more heads than one product takes": replace(
        BASE, num_heads=MOST_HEADS_AT_ONCE + 4, num_kv_heads=4
    ),
    "window": replace(BASE, window=7),
    "window of one": replace(BASE, window=1),
    "soft cap": replace(BASE, soft_cap=0.7),
    "sinks": replace(BASE, sinks=True),
    "scale": replace(BASE, scale=0.9),
    "all": replace(BASE, window=5, soft_cap=2.0, sinks=True),
}
EACH_JAX = ("grouped", "more heads than one product takes", "all")
each_spec = pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=name, marks=() if name in EACH_JAX else pytest.mark.one_jax)
        for name, spec in SPECS.items()
    ],
)
QUANTISED = (DataType.INT8, DataType.FLOAT8_E4M3FN)


@partial(jax.jit, static_argnames=("spec", "num_tokens"))
def _run(q, k, v, cache, batch, sinks, *, spec, num_tokens):
    meta = paged_meta(batch, num_tokens, PAGE)
    attend = paged_attention(meta)
    return attend(q, k, v, cache, meta.positions, spec, sinks=sinks)


def _inputs(spec, lengths, seed=0):
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    q = rng.standard_normal((total, spec.num_heads, spec.head_dim), np.float32)
    k, v = rng.standard_normal((2, total, spec.num_kv_heads, spec.head_dim)).astype(np.float32)
    sinks = jnp.asarray(rng.standard_normal(spec.num_heads), jnp.float32) if spec.sinks else None
    return q, k, v, sinks


def _tables(lengths, rng):
    """Scattered pages for each sequence; one more row for padding."""
    tables = np.zeros((len(lengths) + 1, TABLE), np.int32)
    free = list(rng.permutation(np.arange(1, PAGES)))
    for row, length in enumerate(lengths):
        for i in range(-(-length // PAGE)):
            tables[row, i] = free.pop()
    return tables


def _poisoned(spec, dtype):
    """A pool of which every byte would show: nan, or the largest bits under scales that are nan."""
    shape = (PAGES, PAGE, spec.num_kv_heads)
    if not dtype.quantised:
        pool = jnp.full((*shape, spec.head_dim), jnp.nan, dtype.value)
        return LayerCache(k_pages=pool, v_pages=pool)
    pool, scales = jnp.full((*shape, spec.head_dim), 127, dtype.stored), jnp.full(shape, jnp.nan)
    return LayerCache(k_pages=pool, v_pages=pool, k_scales=scales, v_scales=scales)


def _paged(q, k, v, sinks, spec, lengths, steps, tables, dtype=DataType.FLOAT32):
    """Run the sequences in steps (`[(lengths so far, padded tokens)]`) over a poisoned pool."""
    cache = _poisoned(spec, dtype)
    starts = np.cumsum([0, *lengths])
    before = [0] * len(lengths)
    parts = [[] for _ in lengths]
    for after, padded in steps:
        index = np.concatenate(
            [starts[r] + np.arange(before[r], after[r]) for r in range(len(lengths))]
        )
        counts = [a - b for a, b in zip(after, before, strict=True)]
        flat = np.cumsum([0, *counts, 0]).astype(np.int32)
        batch = StepBatch(
            slots=jnp.arange(len(lengths) + 1, dtype=jnp.int32),
            query_starts=jnp.asarray(flat),
            context_lens=jnp.asarray([*after, 0], jnp.int32),
            samples=jnp.ones(len(lengths) + 1, bool),
            block_tables=jnp.asarray(tables),
        )
        pad = ((0, padded - len(index)), (0, 0), (0, 0))
        chunk = [jnp.asarray(np.pad(x[index], pad)) for x in (q, k, v)]
        out, cache = _run(*chunk, cache, batch, sinks, spec=spec, num_tokens=padded)
        for r in range(len(lengths)):
            parts[r].append(np.asarray(out)[flat[r] : flat[r + 1]])
        before = after
    return np.concatenate([x for row in parts for x in row]), cache


def _dense(q, k, v, sinks, spec, lengths):
    positions = jnp.concatenate([jnp.arange(n) for n in lengths]).astype(jnp.int32)
    args = [jnp.asarray(x) for x in (q, k, v)]
    return np.asarray(dense_attention(*args, None, positions, spec, sinks=sinks)[0])


@each_spec
def test_equals_dense_in_one_step_and_in_chunks(spec):
    lengths = (37, 4, 21)
    q, k, v, sinks = _inputs(spec, lengths)
    tables = _tables(lengths, np.random.default_rng(1))
    expected = _dense(q, k, v, sinks, spec, lengths)
    whole, _ = _paged(q, k, v, sinks, spec, lengths, [(lengths, 64)], tables)
    np.testing.assert_allclose(whole, expected, atol=2e-5)
    steps = [((20, 3, 8), 64), ((33, 3, 19), 64), ((36, 4, 20), 64), ((37, 4, 21), 4)]
    chunked, _ = _paged(q, k, v, sinks, spec, lengths, steps, tables)
    np.testing.assert_allclose(chunked, expected, atol=2e-5)


@each_spec
def test_a_long_step_of_sequences_with_one_few_and_many_tokens(spec):
    """Each takes another way: lone tokens together, few and many in tiles of other widths."""
    lengths = (330, 70, 40, 1, 9)
    q, k, v, sinks = _inputs(spec, lengths)
    tables = _tables(lengths, np.random.default_rng(1))
    steps = [((300, 65, 3, 0, 4), 512), ((301, 70, 40, 1, 9), 128), (lengths, 128)]
    assert 300 > WIDEST > 65 > FEW > 40
    out, _ = _paged(q, k, v, sinks, spec, lengths, steps, tables)
    np.testing.assert_allclose(out, _dense(q, k, v, sinks, spec, lengths), atol=2e-5)


def test_decode_steps_across_block_borders():
    """Contexts that end just before, on and after a block of keys, one token at a time."""
    lengths = (131, 3)
    q, k, v, _ = _inputs(BASE, lengths)
    tables = np.zeros((3, TABLE), np.int32)
    tables[0, :33], tables[1, :1] = np.arange(1, 34), [40]
    steps = [((126, 0), 128), *(((n, min(3, n - 126)), 3) for n in range(127, 132))]
    out, _ = _paged(q, k, v, None, BASE, lengths, steps, tables)
    np.testing.assert_allclose(out, _dense(q, k, v, None, BASE, lengths), atol=2e-5)


def test_writes_only_own_pages_and_the_trash_page():
    lengths = (5, 9)
    q, k, v, _ = _inputs(BASE, lengths)
    tables = _tables(lengths, np.random.default_rng(2))
    _, cache = _paged(q, k, v, None, BASE, lengths, [(lengths, 64)], tables)
    written = ~np.isnan(np.asarray(cache.k_pages)).all(axis=(1, 2, 3))
    assert set(np.flatnonzero(written)) == {0, *tables[tables > 0]}


@pytest.mark.parametrize(
    "dtype", [QUANTISED[0], pytest.param(QUANTISED[1], marks=pytest.mark.every_case)]
)
@each_spec
def test_a_quantised_cache_equals_dense_over_what_it_holds(spec, dtype):
    lengths = (37, 4, 21)
    q, k, v, sinks = _inputs(spec, lengths)
    tables = _tables(lengths, np.random.default_rng(1))
    held = [np.asarray(dequantise(*quantise(jnp.asarray(x), dtype))) for x in (k, v)]
    expected = _dense(q, *held, sinks, spec, lengths)
    assert np.abs(expected - _dense(q, k, v, sinks, spec, lengths)).max() > 1e-4
    whole, once = _paged(q, k, v, sinks, spec, lengths, [(lengths, 64)], tables, dtype)
    np.testing.assert_allclose(whole, expected, atol=2e-5)
    steps = [((20, 3, 8), 64), ((33, 3, 19), 64), ((36, 4, 20), 64), ((37, 4, 21), 4)]
    chunked, cache = _paged(q, k, v, sinks, spec, lengths, steps, tables, dtype)
    np.testing.assert_allclose(chunked, expected, atol=2e-5)
    # The trash page alone holds the padding of whichever step came last.
    for one, other in zip(jax.tree.leaves(once), jax.tree.leaves(cache), strict=True):
        np.testing.assert_array_equal(one[1:], other[1:])


@pytest.mark.parametrize("dtype", QUANTISED)
def test_a_step_changes_only_its_own_places_of_a_quantised_pool(dtype):
    lengths = (5, 9)
    q, k, v, _ = _inputs(BASE, lengths)
    tables = _tables(lengths, np.random.default_rng(2))
    _, cache = _paged(q, k, v, None, BASE, lengths, [(lengths, 64)], tables, dtype)
    values, scales = (np.asarray(x)[5:] for x in quantise(jnp.asarray(k), dtype))
    pages = tables[1, :3]
    np.testing.assert_array_equal(cache.k_scales[pages].reshape(12, 2)[:9], scales)
    stored = as_stored(jnp.asarray(values), dtype)
    np.testing.assert_array_equal(cache.k_pages[pages].reshape(12, 2, 8)[:9], stored)
    assert np.isnan(cache.k_scales[pages[2], 1:]).all(), "the tail of the last page is untouched"
    written = ~np.isnan(cache.v_scales).all(axis=(1, 2))
    assert set(np.flatnonzero(written)) == {0, *tables[tables > 0]}


@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize("place", ["k", "v"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_and_in_its_own_sequence(dtype, place, value):
    lengths, at = (40, 6), 30
    q, k, v, _ = _inputs(BASE, lengths)
    tables = _tables(lengths, np.random.default_rng(3))
    steps = [((38, 4), 64), ((39, 5), 3), ((40, 6), 3)]
    clean, _ = _paged(q, k, v, None, BASE, lengths, steps, tables, dtype)
    {"k": k, "v": v}[place][at, 1] = value
    out, _ = _paged(q, k, v, None, BASE, lengths, steps, tables, dtype)
    assert np.isnan(out[at:40, 2:]).all(), "every later query of that kv head sees it"
    apart = np.ones(out.shape, bool)
    apart[at:40, 2:] = False
    np.testing.assert_array_equal(out[apart], clean[apart])


@pytest.mark.parametrize("dtype", QUANTISED)
def test_queries_in_bf16_read_a_quantised_cache(dtype):
    lengths = (37, 4, 21)
    q, k, v, _ = (
        None if x is None else jnp.asarray(x, jnp.bfloat16) for x in _inputs(BASE, lengths)
    )
    tables = _tables(lengths, np.random.default_rng(1))
    held = [dequantise(*quantise(x, dtype)) for x in (k, v)]
    expected = _dense(q.astype(jnp.float32), *held, None, BASE, lengths)
    steps = [((36, 3, 20), 64), ((37, 4, 21), 4)]
    out, _ = _paged(*(np.asarray(x) for x in (q, k, v)), None, BASE, lengths, steps, tables, dtype)
    np.testing.assert_allclose(out.astype(np.float32), expected, atol=2e-2)


def test_dense_attention_keeps_sequences_apart():
    q, k, v, _ = _inputs(BASE, (6, 5))
    together = _dense(q, k, v, None, BASE, (6, 5))
    alone = _dense(q[6:], k[6:], v[6:], None, BASE, (5,))
    np.testing.assert_allclose(together[6:], alone, atol=1e-6)


# The same bits

TOKENS = 40
CUTS = [(0, 1, 17, 33), (0, 2, 18, 34), (0, 3, 19, 35), (0, 5, 21, 37), (0, 7, 10, 26, 39)]
"""Where chunks of up to 16 tokens begin; compared with those of 16."""


@partial(jax.jit, static_argnames="spec")
def _run_tile(q, k, v, cache, context_lens, num_turns, *, spec):
    """16 tokens in tiles of four queries; a loop, as in a step, which XLA does not see through."""
    run = jnp.stack([jnp.int32(0), *[jnp.sum(context_lens > 0)] * 16]).astype(jnp.int32)
    batch = StepBatch(
        slots=jnp.zeros(16, jnp.int32),
        query_starts=run,
        context_lens=jnp.full(16, jnp.max(context_lens)),
        samples=jnp.zeros(16, bool),
        block_tables=jnp.broadcast_to(jnp.arange(1, TABLE + 1), (16, TABLE)),
    )

    def turn(_, carry):
        meta = paged_meta(batch, 16, PAGE, fixed=(4, 4))
        return paged_attention(meta)(q, k, v, carry[1], meta.positions, spec)

    return jax.lax.fori_loop(0, num_turns, turn, (jnp.zeros_like(q), cache))


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("heads_per_key", [1, 2, 3, 5, 8])
def test_a_query_has_the_same_bits_wherever_it_stands_in_its_tile(heads_per_key):
    spec = replace(BASE, num_heads=2 * heads_per_key, head_dim=16)
    q, k, v, _ = _inputs(spec, [TOKENS])

    def run(begins):
        cache = LayerCache(
            k_pages=jnp.zeros((PAGES, PAGE, 2, 16)), v_pages=jnp.zeros((PAGES, PAGE, 2, 16))
        )
        results = []
        for begin, end in zip(begins, (*begins[1:], TOKENS), strict=True):
            count = end - begin
            padded = [np.pad(x[begin:end], ((0, 16 - count), (0, 0), (0, 0))) for x in (q, k, v)]
            lens = np.where(np.arange(16) < count, begin + 1 + np.arange(16), 0)
            out, cache = _run_tile(*padded, cache, lens, 1, spec=spec)
            results.append(np.asarray(out)[:count])
        return np.concatenate(results)

    expected = run((0, 16, 32))
    for begins in CUTS:
        np.testing.assert_array_equal(run(begins), expected, err_msg=str(begins))
