"""The Mosaic kernels in the interpreter, their races looked for; `test_mosaic.py` runs this file.

Each warpgroup is a program that waits for others in callbacks, on a thread of XLA's pool: the pool
must have more threads than a machine of few cores gives it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import Tuning, paged_attention, paged_attention_reference
from pallas_kernels.mosaic_prefill import mosaic_prefill
from pallas_kernels.online import Pool
from pallas_kernels.rules import Rules
from tests.kernels.cases import SCALE, make_case, oracle
from tests.kernels.test_paged_attention import EDGES, MIXED, assert_close
from tests.kernels.triton import allow_deprecated
from tests.runtime.test_triton_step import chosen_logprobs, run

pytestmark = allow_deprecated
BF16, F16, INT8, FP8 = jnp.bfloat16, jnp.float16, jnp.int8, jnp.float8_e4m3fn
LATENT = {"heads": (2, 1, 96), "value_dim": 64, "in_keys": True}
"""A value is the beginning of its key; of more than 256 elements, two warpgroups share them."""
WIDE_LATENT = {"heads": (3, 1, 384), "value_dim": 320, "in_keys": True}
SMALL_SPLITS = Tuning(split_keys=64, num_stages=2)
CASES = {
    "gqa": {"heads": (8, 2, 64), "rows": EDGES},
    "mha, head 80, page 8": {"heads": (2, 2, 80), "rows": EDGES, "page": 8},
    "mqa, head 96, f16": {"heads": (20, 1, 96), "rows": EDGES[4:], "dtype": F16},
    "head 128, page 64": {"heads": (4, 1, 128), "rows": EDGES, "page": 64},
    "head 192, values of 128, page 128": {
        "heads": (2, 1, 192),
        "rows": ((1, 150), (1, 7)),
        "value_dim": 128,
        "page": 128,
    },
    "head 256": {"heads": (2, 1, 256), "rows": ((1, 150), (1, 7)), "page": 32},
    "values of 64, keys of 128": {"heads": (2, 1, 128), "rows": EDGES[:5], "value_dim": 64},
    "as many heads as rows": {"heads": (64, 1, 16), "rows": ((1, 70),)},
    "window": {"heads": (4, 2, 16), "rows": EDGES, "window": 9, "page": 8},
    "a window over splits": {"heads": (4, 2, 16), "rows": ((1, 400), (1, 300)), "window": 130},
    "chunk": {"heads": (4, 2, 16), "rows": EDGES, "chunk": 16, "page": 8},
    "soft cap and sinks": {"heads": (6, 2, 16), "rows": EDGES, "soft_cap": 1.5, "sinks": True},
    "rows without a query": {"heads": (2, 1, 16), "rows": ((1, 9), (0, 0), (1, 1), (0, 20))},
    "more blocks than the ring": {"heads": (2, 1, 16), "rows": ((1, 800), (1, 70))},
    "int8": {"heads": (4, 2, 64), "rows": EDGES, "kv_dtype": INT8},
    "fp8, page 8": {"heads": (4, 2, 48), "rows": EDGES, "kv_dtype": FP8, "page": 8},
    "int8, window over splits": {
        "heads": (4, 2, 16),
        "rows": ((1, 400), (1, 300)),
        "window": 130,
        "kv_dtype": INT8,
    },
    "int8, more blocks than the ring": {
        "heads": (2, 1, 16),
        "rows": ((1, 800), (1, 70)),
        "kv_dtype": INT8,
        "page": 64,
    },
    "int8, head 256": {"heads": (2, 1, 256), "rows": ((1, 150), (1, 7)), "kv_dtype": INT8},
    "latent": LATENT | {"rows": EDGES},
    "latent, two warpgroups": WIDE_LATENT | {"rows": EDGES[3:]},
    "latent, 576 and 512": {
        "heads": (70, 1, 576),
        "value_dim": 512,
        "in_keys": True,
        "rows": ((1, 75), (1, 6)),
    },
    "latent, fp8": WIDE_LATENT | {"rows": EDGES[3:], "kv_dtype": FP8},
    "more heads than rows": {"heads": (71, 1, 16), "rows": ((1, 70), (1, 3))},
    "beside runs": {"heads": (4, 2, 64), "rows": MIXED, "padding": 2},
}
RUNS = ((40, 40), (1, 17), (0, 0), (70, 150), (3, 66))
"""Rows that are all run as prefill: some of several tiles, and one of a single token."""
PREFILLS = {
    "gqa": {"heads": (4, 2, 64), "padding": 3},
    "three heads to one, head 80, page 8": {"heads": (6, 2, 80), "page": 8},
    "head 96, f16": {"heads": (4, 1, 96), "dtype": F16},
    "head 192, values of 128, page 64": {"heads": (2, 1, 192), "value_dim": 128, "page": 64},
    "head 256, page 32": {"heads": (2, 1, 256), "page": 32, "rows": ((40, 70), (3, 3))},
    "mha": {"heads": (2, 2, 16)},
    "64 heads to one": {"heads": (64, 1, 16), "rows": ((5, 70), (2, 2))},
    "window": {"heads": (4, 2, 16), "window": 9, "page": 8},
    "a window over blocks": {"heads": (2, 1, 16), "window": 100},
    "chunk": {"heads": (14, 2, 16), "chunk": 16},
    "soft cap and sinks": {"heads": (4, 2, 16), "soft_cap": 1.5, "sinks": True},
    "int8": {"heads": (4, 2, 64), "kv_dtype": INT8},
    "fp8, a window over blocks": {"heads": (2, 1, 16), "window": 100, "kv_dtype": FP8, "page": 8},
    "int8, head 256": {"heads": (2, 1, 256), "rows": ((40, 70), (3, 3)), "kv_dtype": INT8},
    "latent": LATENT,
    "latent, two warpgroups": WIDE_LATENT | {"rows": ((40, 70), (3, 3), (1, 34))},
    "latent, int8, window": WIDE_LATENT | {"window": 40, "kv_dtype": INT8, "rows": ((40, 70),)},
    "more heads than rows": {"heads": (71, 1, 16), "rows": ((5, 70), (2, 2))},
}


@pytest.fixture(autouse=True)
def no_races(monkeypatch):
    """Two accesses to the same memory that no barrier orders fail the test, in any kernel."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

    detect, kernels = gpu_callbacks.GPURaceDetectionState, []

    def recorded(**options):
        kernels.append(detect(**options))
        return kernels[-1]

    monkeypatch.setattr(gpu_callbacks, "GPURaceDetectionState", recorded)
    gpu_callbacks.reset_gpu_interpret_mode_state()
    yield
    assert not any(kernel.races_found for kernel in kernels)


def attend(case, tuning=SMALL_SPLITS):
    return case.run(
        paged_attention,
        implementation="mosaic",
        return_lse=True,
        interpret=True,
        tuning=tuning,
    )


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_matches_fp64(name):
    case = make_case(**{"dtype": BF16} | CASES[name])
    tuning = Tuning(split_keys=1024) if name == "more blocks than the ring" else SMALL_SPLITS
    assert_close(attend(case, tuning=tuning), oracle(case), case)


@pytest.mark.parametrize("name", PREFILLS)
def test_runs_match_fp64(name):
    case = make_case(**{"dtype": BF16, "rows": RUNS} | PREFILLS[name])
    q, k_pages, v_pages, tables, contexts, starts = case.arrays
    options = dict(case.options)
    sinks = options.pop("sinks", None)
    options.pop("value_dim", None)
    scales = [options.pop(name, None) for name in ("k_scales", "v_scales")]
    value_dim = oracle(case)[0].shape[-1]
    rules = Rules(SCALE, **options, value_dim=value_dim)
    shape = (*q.shape[:2], value_dim)
    got = mosaic_prefill(
        q,
        Pool(k_pages, v_pages, *scales, tables),
        starts,
        contexts,
        sinks,
        (jnp.zeros(shape, q.dtype), jnp.full(q.shape[:2], -jnp.inf)),
        rules,
        Tuning(num_stages=2),
        at_least=1,
        interpret=True,
    )
    assert_close(got, oracle(case), case)


def test_the_sizes_that_are_chosen_match_fp64():
    case = make_case(heads=(4, 2, 64), rows=((1, 600), (1, 530)), dtype=BF16, page=64)
    assert_close(attend(case, tuning=None), oracle(case), case)


def test_a_token_has_its_own_bits():
    """Alone, among others, elsewhere, under a wider table: the same bits."""
    case = make_case(heads=(4, 2, 16), rows=((1, 40), (1, 7), (1, 200)), page=8, dtype=BF16)
    q, k_pages, v_pages, tables, contexts, starts = case.arrays

    def attended(index, tables):
        count = len(index)
        arrays = (q[index], k_pages, v_pages, tables[index], contexts[index], starts[: count + 1])
        options = {"interpret": True, "return_lse": True, "tuning": SMALL_SPLITS}
        return paged_attention(*arrays, scale=SCALE, implementation="mosaic", **options)

    together = attended(np.array([0, 1, 2]), tables)
    turned = attended(np.array([2, 0, 1]), tables)
    wider = jnp.pad(tables, ((0, 0), (0, 30)), constant_values=10**9)
    for ours, moved in zip(together, turned, strict=True):
        np.testing.assert_array_equal(ours, moved[np.array([1, 2, 0])])
    for index in range(3):
        for ours, own in zip(together, attended(np.array([index]), wider), strict=True):
            np.testing.assert_array_equal(ours[index], own[0])


def test_gradients_are_those_of_the_reference():
    case = make_case(heads=(4, 2, 16), rows=((1, 9), (1, 17)), page=8, dtype=BF16)
    q, k_pages, *rest = case.arrays
    k_pages, v_pages = jnp.nan_to_num(k_pages), jnp.nan_to_num(rest[0])

    def loss(attend, **options):
        def of(q, k_pages):
            out = attend(q, k_pages, v_pages, *rest[1:], scale=SCALE, **options)
            return jnp.sum(jnp.sin(out.astype(jnp.float32)))

        return jax.grad(of, argnums=(0, 1))(q, k_pages)

    ours = loss(paged_attention, implementation="mosaic", interpret=True)
    for mine, wanted in zip(ours, loss(paged_attention_reference), strict=True):
        np.testing.assert_allclose(
            np.asarray(mine, float), np.asarray(wanted, float), rtol=0, atol=0.03
        )


@pytest.mark.parametrize(
    ("name", "kv_dtype"),
    [
        ("windowed", "auto"),
        pytest.param("grouped and latent", "fp8", marks=pytest.mark.every_case),
    ],
)
def test_an_engine_gives_the_tokens_and_logprobs_of_xla(monkeypatch, name, kv_dtype):
    settings = {"dtype": "bfloat16", "page_size": 8, "kv_dtype": kv_dtype}
    ours = run(monkeypatch, name, kernels="mosaic", **settings)
    plain = run(monkeypatch, name, kernels=None, **settings)
    for mine, wanted in zip(ours, plain, strict=True):
        assert mine.token_ids == wanted.token_ids
        np.testing.assert_allclose(chosen_logprobs(mine), chosen_logprobs(wanted), atol=0.05)


def test_what_it_cannot_do_is_named():
    case = make_case(heads=(2, 1, 16), rows=((1, 9),))
    with pytest.raises(NotImplementedError, match=r"both bfloat16 .* not float32 over float32"):
        attend(case)
    f16 = make_case(heads=(2, 1, 32), rows=((1, 9),), dtype=F16, kv_dtype=INT8)
    with pytest.raises(NotImplementedError, match="take bfloat16 queries over quantised pages"):
        attend(f16)
