"""Paged attention in the interpreter, and its statement in jnp, against fp64 numpy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import Tuning, paged_attention, paged_attention_reference
from tests.kernels.cases import SCALE, Case, make_case, oracle
from tests.kernels.triton import allow_deprecated, needs_triton

pytestmark = allow_deprecated
TOLERANCE = {"float32": 2e-5, "float16": 3e-3, "bfloat16": 3e-2}
"""Of the output, whose values are of order 1; the log-sum-exp is fp32 whatever the pages are."""
MIXED = ((5, 5), (1, 17), (0, 0), (1, 1), (0, 9), (21, 70), (2, 33))
"""Queries and context of rows: a whole prompt, decodes, a row without a query, later chunks."""
EDGES = tuple((1, context) for context in (1, 8, 15, 16, 17, 31, 32, 33, 64, 65))
"""Decodes at the edges of pages, of blocks of 32 or 64 keys, and of splits of 64."""
SMALL_SPLITS = Tuning(split_keys=32, decode_block=16, prefill_rows=32, prefill_block=16)
BF16, F16, INT8, FP8 = jnp.bfloat16, jnp.float16, jnp.int8, jnp.float8_e4m3fn
CASES = {
    "mha": {"heads": (2, 2, 64), "rows": MIXED, "padding": 3},
    "gqa, head 80, page 8": {"heads": (6, 2, 80), "rows": MIXED, "page": 8},
    "mqa, head 96, bf16": {"heads": (4, 1, 96), "rows": MIXED, "dtype": BF16, "padding": 1},
    "head 128, f16, page 64": {"heads": (2, 1, 128), "rows": MIXED, "dtype": F16, "page": 64},
    "head 192, values of 128": {
        "heads": (2, 1, 192),
        "rows": ((3, 20), (1, 40)),
        "value_dim": 128,
    },
    "head 256, page 32, bf16": {
        "heads": (2, 1, 256),
        "rows": ((3, 40), (1, 33)),
        "page": 32,
        "dtype": BF16,
    },
    "latent, 576 and 512": {
        "heads": (20, 1, 576),
        "rows": ((3, 20), (1, 17)),
        "value_dim": 512,
        "in_keys": True,
    },
    "latent, values that are no run": {
        "heads": (3, 1, 40),
        "rows": MIXED,
        "value_dim": 24,
        "in_keys": True,
        "kv_dtype": INT8,
    },
    "a page that is no power of two": {"heads": (2, 2, 24), "rows": MIXED, "page": 24},
    "window": {"heads": (4, 2, 16), "rows": MIXED, "window": 9, "page": 8},
    "window of one": {"heads": (2, 2, 16), "rows": MIXED, "window": 1, "page": 8},
    "chunk": {"heads": (4, 2, 16), "rows": MIXED, "chunk": 16, "page": 8},
    "soft cap and sinks": {"heads": (7, 1, 16), "rows": MIXED, "soft_cap": 1.5, "sinks": True},
    "alibi": {"heads": (4, 4, 16), "rows": MIXED, "alibi": True},
    "alibi, rounded": {"heads": (4, 2, 16), "rows": MIXED, "alibi": True, "alibi_rounded": True},
    "int8": {"heads": (4, 2, 16), "rows": MIXED, "kv_dtype": INT8, "window": 20},
    "int8 under bf16": {"heads": (4, 2, 64), "rows": MIXED, "kv_dtype": INT8, "dtype": BF16},
    "fp8 under f16": {"heads": (4, 2, 16), "rows": MIXED, "kv_dtype": FP8, "dtype": F16},
    "fp8 under bf16": {"heads": (4, 2, 16), "rows": MIXED, "kv_dtype": FP8, "dtype": BF16},
    "f32 over bf16": {"heads": (4, 2, 16), "rows": MIXED, "kv_dtype": BF16},
    "more heads than a tile": {"heads": (40, 1, 16), "rows": MIXED, "sinks": True},
    "decodes": {"heads": (4, 2, 16), "rows": EDGES, "page": 8},
    "decodes, everything": {
        "heads": (6, 2, 96),
        "rows": (*EDGES, (0, 0), (2, 40), (0, 5)),
        "dtype": BF16,
        "window": 37,
        "soft_cap": 2.0,
        "sinks": True,
        "alibi": True,
        "kv_dtype": INT8,
    },
    "one token": {"heads": (2, 1, 16), "rows": ((1, 1),)},
    "nothing but padding": {"heads": (2, 1, 16), "rows": ((0, 0), (0, 7)), "padding": 4},
}
EACH_JAX = (
    "gqa, head 80, page 8",
    "latent, 576 and 512",
    "int8 under bf16",
    "decodes, everything",
)


def tolerance_of(case: Case) -> float:
    return TOLERANCE[case.arrays[0].dtype.name]


def assert_close(got, want, case: Case) -> None:
    """Results and their log-sum-exp against fp64."""
    (out, lse), (want_out, want_lse) = got, want
    assert out.dtype == case.arrays[0].dtype
    assert lse.dtype == jnp.float32
    tolerance = tolerance_of(case)
    np.testing.assert_allclose(np.asarray(out).astype(float), want_out, rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.asarray(lse), want_lse, rtol=0, atol=2e-5)


@needs_triton
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EACH_JAX else pytest.mark.one_jax) for n in CASES]
)
def test_the_kernels_match_fp64(name):
    case = make_case(**CASES[name])
    got = case.run(paged_attention, return_lse=True, interpret=True, tuning=SMALL_SPLITS)
    assert_close(got, oracle(case), case)


@needs_triton
def test_the_sizes_that_are_chosen_match_fp64():
    case = make_case(heads=(4, 2, 64), rows=((1, 600), (70, 530)), window=560, page=64)
    assert_close(case.run(paged_attention, return_lse=True, interpret=True), oracle(case), case)


@pytest.mark.parametrize("name", CASES)
def test_the_reference_matches_fp64(name):
    case = make_case(**CASES[name])
    assert_close(case.run(paged_attention_reference, return_lse=True), oracle(case), case)


@needs_triton
def test_results_of_no_row_are_zero():
    case = make_case(heads=(2, 2, 16), rows=((3, 3), (1, 2)), padding=5)
    out, lse = case.run(paged_attention, return_lse=True, interpret=True)
    assert not np.any(np.asarray(out[4:]))
    assert np.all(np.asarray(lse[4:]) == -np.inf)


@needs_triton
def test_a_token_by_itself_has_its_own_bits():
    """Alone, among others, elsewhere, in a chunk, under a wider table: the same bits."""
    case = make_case(heads=(4, 2, 16), rows=((3, 40), (1, 7), (1, 70)), page=8)
    q, k_pages, v_pages, tables, contexts, _ = case.arrays

    def attend(q, tables, contexts, starts):
        starts = jnp.asarray(starts, jnp.int32)
        arrays = (q, k_pages, v_pages, tables, contexts, starts)
        options = {"interpret": True, "return_lse": True, "tuning": SMALL_SPLITS}
        return paged_attention(*arrays, scale=SCALE, **options)

    nothing = jnp.zeros(2, jnp.int32)
    tables5 = jnp.concatenate([tables, jnp.full((2, tables.shape[1]), 10**9, jnp.int32)])
    together = attend(q, tables5, jnp.concatenate([contexts, nothing]), [0, 3, 4, 5, 5, 5])
    turned = attend(
        jnp.concatenate([q[4:], q[:3]]),
        tables[jnp.array([2, 0, 1, 1])],
        contexts[jnp.array([2, 0, 1, 1])],
        [0, 1, 4, 4, 4],
    )
    wider = jnp.pad(tables[:1], ((0, 0), (0, 30)), constant_values=10**9)
    for ours, moved in zip(together, turned, strict=True):
        np.testing.assert_array_equal(ours[4], moved[0])
        np.testing.assert_array_equal(ours[:3], moved[1:])
    for index in range(3):
        alone = attend(q[index : index + 1], wider, contexts[:1] - (2 - index), [0, 1])
        for ours, own in zip(together, alone, strict=True):
            np.testing.assert_array_equal(ours[index], own[0])


def arguments(**changes):
    case = make_case(heads=(4, 2, 16), rows=((1, 5), (2, 9)), page=8)
    names = ("q", "k_pages", "v_pages", "block_tables", "context_lens", "query_starts")
    return dict(zip(names, case.arrays, strict=True)) | {"scale": SCALE} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": jnp.zeros((3, 3, 16))}, "3 query heads cannot share 2 kv heads"),
        ({"q": jnp.zeros((3, 4, 8))}, "k_pages"),
        ({"v_pages": jnp.zeros((5, 8, 1, 8))}, "v_pages"),
        ({"q": jnp.zeros((3, 4, 16), jnp.int8)}, "q is int8; cast it"),
        ({"block_tables": jnp.zeros((2, 3), jnp.float32)}, "block_tables is float32; cast it"),
        ({"block_tables": jnp.zeros((2, 0), jnp.int32)}, "none empty"),
        ({"query_starts": jnp.zeros(2, jnp.int32)}, "query_starts"),
        ({"context_lens": jnp.zeros(3, jnp.int32)}, "context_lens"),
        ({"sinks": jnp.zeros(3)}, "sinks"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"chunk": 0}, "chunk=0 must be at least 1"),
        ({"soft_cap": 0.0}, "soft_cap=0.0 must be above 0"),
        ({"value_dim": 16}, "value_dim=16 is for v_pages=None"),
        ({"v_pages": None}, "value_dim=None; without v_pages"),
        ({"v_pages": None, "value_dim": 17}, "from 1 to 16"),
        ({"k_scales": jnp.zeros((9, 8, 2))}, "quantised pages have scales"),
        ({"implementation": "cuda"}, "choose one of auto, xla, triton, mosaic"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        paged_attention(**arguments(**changes))


@needs_triton
def test_a_head_that_is_too_large_is_named():
    large = jnp.zeros((11, 8, 2, 640))
    changes = {"q": jnp.zeros((3, 4, 640)), "k_pages": large, "v_pages": large}
    with pytest.raises(NotImplementedError, match="heads of 640 elements"):
        paged_attention(**arguments(**changes), implementation="triton")


def test_on_a_cpu_auto_is_the_reference():
    given = arguments()
    np.testing.assert_array_equal(paged_attention(**given), paged_attention_reference(**given))
