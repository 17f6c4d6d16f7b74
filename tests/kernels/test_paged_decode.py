"""Paged decode in the interpreter against fp64 numpy; and lowered for cuda, on any machine."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import triton as plgpu

from pallas_kernels import paged_decode, paged_decode_reference
from pallas_kernels.paged_decode import SPLIT_KEYS

pytestmark = pytest.mark.filterwarnings(
    "ignore:The Pallas Triton backend is deprecated:DeprecationWarning"
)
needs_triton = pytest.mark.skipif(
    not hasattr(plgpu, "load"),
    reason=f"jax {jax.__version__} has no masked load in Pallas-Triton; the kernel needs jax 0.10",
)
SCALE = 0.3
TOLERANCE = {"float32": 3e-6, "float16": 2e-3, "bfloat16": 2e-2}
"""Of the output, whose values are of order 1; the log-sum-exp is fp32 whatever the pages are."""
LSE_TOLERANCE = 1e-5


class Case(NamedTuple):
    """Arguments of `paged_decode`; what no row may read is nan, or no page at all."""

    q: jax.Array
    k_pages: jax.Array
    v_pages: jax.Array
    block_tables: jax.Array
    context_lens: jax.Array


def make_case(
    heads: tuple[int, int, int],
    page: int,
    width: int,
    lens: tuple[int, ...],
    *,
    dtype: Any = jnp.float32,
    window: int | None = None,
) -> Case:
    """Random rows of `lens` keys over randomly placed pages, with `width` entries in the table."""
    (N, K, H), R = heads, len(lens)
    rng = np.random.default_rng([N, K, H, page, *lens])
    num_pages = R * width + 3
    placed = rng.permutation(num_pages)[: R * width].reshape(R, width)
    pages = rng.normal(size=(2, num_pages, page, K, H))
    seen = np.zeros((num_pages, page), bool)
    tables = np.full((R, width), 10**9)
    for row, length in enumerate(lens):
        used = -(-length // page)
        tables[row, :used] = placed[row, :used]
        for key in range(max(0, length - window) if window else 0, length):
            seen[placed[row, key // page], key % page] = True
    pages[:, ~seen] = np.nan
    k_pages, v_pages = jnp.asarray(pages, dtype)
    q = jnp.asarray(rng.normal(size=(R, N, H)), dtype)
    return Case(q, k_pages, v_pages, jnp.asarray(tables, jnp.int32), jnp.asarray(lens, jnp.int32))


def oracle(case: Case, *, window=None, soft_cap=None, sinks=None) -> tuple[np.ndarray, np.ndarray]:
    """Attention and its log-sum-exp, row by row and head by head, in fp64."""
    q, k_pages, v_pages = (np.asarray(x).astype(np.float64) for x in case[:3])
    tables, lens = np.asarray(case.block_tables), np.asarray(case.context_lens)
    page, groups = k_pages.shape[1], q.shape[1] // k_pages.shape[2]
    out, lse = np.zeros(q.shape), np.full(q.shape[:2], -np.inf)
    for row, head in np.ndindex(lse.shape):
        keys = np.arange(max(0, lens[row] - window) if window else 0, lens[row])
        at = (tables[row, keys // page], keys % page, head // groups)
        scores = k_pages[at] @ q[row, head] * SCALE
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        if sinks is not None:
            scores = np.append(scores, float(sinks[head]))
        if scores.size:
            lse[row, head] = np.logaddexp.reduce(scores)
            out[row, head] = np.exp(scores - lse[row, head])[: keys.size] @ v_pages[at]
    return out, lse


def sinks_of(num_heads: int) -> jax.Array:
    return jnp.linspace(-2.0, 3.0, num_heads)


EDGES = (0, 1, 8, 9, 31, 32, 33, 63, 64, 65, 128, 129)
"""Of pages, blocks of 32 or 64 keys and splits of 64 or 128; an empty row first."""
CASES = {
    "mha, one split, soft cap, a page that is no power of two": (
        (2, 2, 16),
        24,
        6,
        (*EDGES, 24, 25),
        jnp.float32,
        {"soft_cap": 1.5, "num_splits": 1},
    ),
    "gqa, head 96, everything": (
        (6, 2, 96),
        16,
        9,
        EDGES,
        jnp.bfloat16,
        {"window": 37, "soft_cap": 2.0, "sinks": sinks_of(6), "num_splits": 3},
    ),
    "mqa, two tiles of heads, head 80": (
        (40, 1, 80),
        8,
        18,
        (0, 1, 65, 144),
        jnp.float32,
        {"sinks": sinks_of(40), "num_splits": 3},
    ),
    "float16, window of one page": (
        (4, 2, 32),
        64,
        4,
        (0, 1, 64, 65, 200, 256),
        jnp.float16,
        {"window": 64, "num_splits": 4},
    ),
}


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernel_matches_fp64(name):
    heads, page, width, lens, dtype, options = CASES[name]
    case = make_case(heads, page, width, lens, dtype=dtype, window=options.get("window"))
    out, lse = paged_decode(*case, scale=SCALE, return_lse=True, interpret=True, **options)
    want = oracle(case, **{key: value for key, value in options.items() if key != "num_splits"})
    assert out.dtype == dtype
    assert lse.dtype == jnp.float32
    tolerance = TOLERANCE[out.dtype.name]
    np.testing.assert_allclose(np.asarray(out).astype(float), want[0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.asarray(lse), want[1], rtol=0, atol=LSE_TOLERANCE)
    assert not np.any(np.asarray(out[lens.index(0)]))


@pytest.mark.parametrize("name", CASES)
def test_reference_matches_fp64(name):
    heads, page, width, lens, dtype, options = CASES[name]
    options = {key: value for key, value in options.items() if key != "num_splits"}
    case = make_case(heads, page, width, lens, dtype=dtype, window=options.get("window"))
    reference = jax.jit(partial(paged_decode_reference, scale=SCALE, **options))
    for got, want in zip(reference(*case), oracle(case, **options), strict=True):
        np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=LSE_TOLERANCE)


@needs_triton
def test_a_row_is_bitwise_its_own():
    """Alone, among others, at another place, under a wider table: the same bits."""
    page, width = 64, 2 * SPLIT_KEYS // 64
    lens = (SPLIT_KEYS + 1, 7, 2 * SPLIT_KEYS)
    q, k_pages, v_pages, tables, context_lens = make_case((2, 1, 16), page, width, lens)
    attend = partial(paged_decode, scale=SCALE, return_lse=True, interpret=True)
    together = attend(q, k_pages, v_pages, tables, context_lens)
    turned = attend(q[::-1], k_pages, v_pages, tables[::-1], context_lens[::-1])
    wider = jnp.pad(tables[:1], ((0, 0), (0, SPLIT_KEYS // page)), constant_values=10**9)
    alone = attend(q[:1], k_pages, v_pages, wider, context_lens[:1])
    for ours, reversed_rows, own in zip(together, turned, alone, strict=True):
        np.testing.assert_array_equal(ours, reversed_rows[::-1])
        np.testing.assert_array_equal(ours[:1], own)


def gpu_to_lower_for() -> contextlib.AbstractContextManager:
    """From jax 0.11 Triton asks which GPU it lowers for; before, there is nothing to say."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))


@needs_triton
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_kernel_lowers_for_cuda(dtype):
    """With every option, head size 96 and a pool of 2^33 elements, none of which is made."""
    R, N, K, H, page, width, num_pages = 4, 24, 8, 96, 16, 64, 2**33 // (16 * 8 * 96)
    shape = jax.ShapeDtypeStruct
    pages = shape((num_pages, page, K, H), dtype)
    tables, lens = shape((R, width), jnp.int32), shape((R,), jnp.int32)
    options = {"scale": SCALE, "window": 100, "soft_cap": 30.0, "return_lse": True}
    attend = jax.jit(lambda *arrays, sinks: paged_decode(*arrays, sinks=sinks, **options))
    with gpu_to_lower_for():
        traced = attend.trace(
            shape((R, N, H), dtype), pages, pages, tables, lens, sinks=shape((N,), dtype)
        )
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "paged_decode_attend_split" in text
    assert "paged_decode_merge_splits" in text
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 2


@needs_triton
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": jnp.zeros((2, 3, 16))}, "3 query heads cannot share 2 kv heads"),
        ({"q": jnp.zeros((2, 4, 8))}, "k_pages"),
        ({"v_pages": jnp.zeros((5, 8, 2, 8))}, "v_pages"),
        ({"q": jnp.zeros((2, 4, 16), jnp.int8)}, "q is int8; cast it"),
        ({"block_tables": jnp.zeros((1, 3), jnp.int32)}, "block_tables"),
        ({"block_tables": jnp.zeros((2, 3), jnp.float32)}, "block_tables is float32; cast it"),
        ({"block_tables": jnp.zeros((2, 0), jnp.int32)}, "none empty"),
        ({"sinks": jnp.zeros(3)}, "sinks"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"num_splits": 0}, "num_splits=0 must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, message):
    arguments = make_case((4, 2, 16), 8, 3, (5, 9))._asdict() | changes
    with pytest.raises(ValueError, match=message):
        paged_decode(**arguments, scale=SCALE, interpret=True)
