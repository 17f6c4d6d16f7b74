"""Paged attention against dense: chunks, pages and neighbours must not show."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrum_jax.attention import dense_attention, paged_attention, paged_meta
from ferrum_jax.types import AttentionConfig, LayerCache, StepBatch

PAGE, PAGES, TABLE = 4, 64, 40
BASE = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, scale=8**-0.5, rope=None)
SPECS = {
    "grouped": BASE,
    "one kv head": replace(BASE, num_kv_heads=1),
    "as many kv heads": replace(BASE, num_kv_heads=4),
    "window": replace(BASE, window=7),
    "window of one": replace(BASE, window=1),
    "soft cap": replace(BASE, soft_cap=0.7),
    "sinks": replace(BASE, sinks=True),
    "scale": replace(BASE, scale=0.9),
    "all": replace(BASE, window=5, soft_cap=2.0, sinks=True),
}


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


def _paged(q, k, v, sinks, spec, lengths, steps, tables):
    """Run the sequences in steps (`[(lengths so far, padded tokens)]`) over a poisoned pool."""
    pool = jnp.full((PAGES, PAGE, spec.num_kv_heads, spec.head_dim), jnp.nan)
    cache = LayerCache(k_pages=pool, v_pages=pool)
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


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
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


def test_dense_attention_keeps_sequences_apart():
    q, k, v, _ = _inputs(BASE, (6, 5))
    together = _dense(q, k, v, None, BASE, (6, 5))
    alone = _dense(q[6:], k[6:], v[6:], None, BASE, (5,))
    np.testing.assert_allclose(together[6:], alone, atol=1e-6)
