"""Turned heads and written pages in the interpreter, and their statement in jnp, against fp64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ferrum_jax.attention.quantize import as_stored, quantise
from ferrum_jax.models.rope import apply_rope
from ferrum_jax.types import DataType
from pallas_kernels.fused import rope_write
from pallas_kernels.fused.eight_bits import e4m3_bits, nearest
from pallas_kernels.fused.rope_write import rope_write_reference
from pallas_kernels.fused.written import Destination, check_offsets
from tests.kernels.triton import allow_deprecated, needs_triton

pytestmark = allow_deprecated
BF16, F16, F32, INT8, FP8 = jnp.bfloat16, jnp.float16, jnp.float32, jnp.int8, jnp.float8_e4m3fn
TOLERANCE = {"float32": 2e-5, "float16": 2.0**-11 + 2e-5, "bfloat16": 2.0**-8 + 2e-5}
"""Of a value, relative: half the distance to its neighbour, and fp32's own."""
PAGES, PAGE = 6, 8
PLACES = ((2, 7), (-1, 0), (0, 0), (5, 3), (5, 4), (-1, 3), (PAGES, 1), (3, PAGE))
"""Page and slot of each token; half of them are none."""
WRITTEN = [index for index, (page, slot) in enumerate(PLACES) if 0 <= page < 6 and slot < 8]
CASES = {
    "f32": {"heads": (4, 2, 16)},
    "odd sizes": {"heads": (3, 3, 10), "rotary": 6},
    "more heads than a program takes": {"heads": (21, 11, 6)},
    "mqa, partial, bf16": {"heads": (9, 1, 80), "rotary": 32, "dtype": BF16},
    "f16, values of 12": {"heads": (2, 2, 24), "rotary": 2, "dtype": F16, "value_dim": 12},
    "f32 into bf16": {"heads": (4, 2, 16), "kv_dtype": BF16},
    "int8": {"heads": (4, 2, 16), "kv_dtype": INT8},
    "int8, bf16, partial": {"heads": (10, 9, 40), "rotary": 20, "dtype": BF16, "kv_dtype": INT8},
    "fp8": {"heads": (4, 2, 64), "kv_dtype": FP8},
    "fp8, f16, partial": {"heads": (4, 2, 96), "rotary": 24, "dtype": F16, "kv_dtype": FP8},
    "fp8 as bits": {"heads": (4, 2, 16), "kv_dtype": jnp.uint8},
}


def arguments(
    *, heads, rotary=None, dtype=F32, kv_dtype=None, value_dim=None, places=PLACES
) -> dict[str, jax.Array]:
    """A call over a pool of poison: nan, or where there is none, 77."""
    (N, K, H), T, V = heads, len(places), value_dim or heads[2]
    rng = np.random.default_rng([*heads])
    q, k, v = (jnp.asarray(rng.normal(size=(T, *x)), dtype) for x in ((N, H), (K, H), (K, V)))
    angles = rng.normal(size=(T, (rotary or H) // 2)) * 3
    kv_dtype = jnp.dtype(kv_dtype or dtype)
    poison = 77 if kv_dtype.itemsize == 1 else np.nan
    given = {
        "q": q,
        "k": k,
        "v": v,
        "cos": jnp.asarray(np.cos(angles), F32),
        "sin": jnp.asarray(np.sin(angles), F32),
        "k_pages": jnp.full((PAGES, PAGE, K, H), poison, kv_dtype),
        "v_pages": jnp.full((PAGES, PAGE, K, V), poison, kv_dtype),
        "write_pages": jnp.asarray([page for page, _ in places], jnp.int32),
        "write_slots": jnp.asarray([slot for _, slot in places], jnp.int32),
    }
    if kv_dtype.itemsize == 1:
        given |= {name: jnp.full((PAGES, PAGE, K), jnp.nan) for name in ("k_scales", "v_scales")}
    return given


def turned(x: jax.Array, given: dict[str, jax.Array]) -> np.ndarray:
    """Heads turned in fp64."""
    cos, sin, exact = (np.asarray(a, np.float64) for a in (given["cos"], given["sin"], x))
    half = cos.shape[1]
    out, first, second = exact.copy(), exact[..., :half], exact[..., half : 2 * half]
    out[..., :half] = first * cos[:, None] - second * sin[:, None]
    out[..., half : 2 * half] = second * cos[:, None] + first * sin[:, None]
    return out


def assert_near(got: jax.Array, want: np.ndarray, dtype: str) -> None:
    exact = np.asarray(got).astype(np.float64)
    np.testing.assert_allclose(exact, want, rtol=TOLERANCE[dtype], atol=2e-5)


def codes(pages: jax.Array) -> np.ndarray:
    """Quantised values as integers in their order, so that neighbours differ by one."""
    if pages.dtype == INT8:
        return np.asarray(pages).astype(int)
    bits = np.asarray(pages).view(np.uint8).astype(int)
    return np.where(bits < 0x80, bits, 0x80 - bits)


def check_pages(given, pages, scales, name: str, want: np.ndarray) -> None:
    """What was written is `want`; what was not is as it was."""
    at = tuple(np.asarray(PLACES)[WRITTEN].T)
    written, dtype = pages[at], given[f"{name}_pages"].dtype
    if scales is None:
        rounding = max(TOLERANCE[x] for x in (dtype.name, given["q"].dtype.name))
        got = np.asarray(written).astype(np.float64)
        np.testing.assert_allclose(got, want[WRITTEN], rtol=2 * rounding, atol=2e-5)
    else:
        kind = DataType.INT8 if dtype == INT8 else DataType.FLOAT8_E4M3FN
        values, own_scales = quantise(jnp.asarray(want[WRITTEN], given["q"].dtype), kind)
        assert np.max(np.abs(codes(written) - codes(as_stored(values, kind)))) <= (name == "k")
        np.testing.assert_allclose(scales[at], own_scales, rtol=1e-6 if name == "k" else 0)
        rest = np.ones((PAGES, PAGE), bool)
        rest[at] = False
        assert np.all(np.isnan(np.asarray(scales)[rest]))
    before = np.asarray(given[f"{name}_pages"]).copy()
    before[at] = written
    np.testing.assert_array_equal(before.view(np.uint8), np.asarray(pages).view(np.uint8))


def check(function, name, **options):
    given = arguments(**CASES[name])
    got = function(**given, **options)
    assert got.q.dtype == given["q"].dtype
    assert_near(got.q, turned(given["q"], given), got.q.dtype.name)
    check_pages(given, got.k_pages, got.k_scales, "k", turned(given["k"], given))
    check_pages(given, got.v_pages, got.v_scales, "v", np.asarray(given["v"], np.float64))


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_matches_fp64(name):
    check(rope_write, name, interpret=True)


@pytest.mark.parametrize("name", CASES)
def test_the_reference_matches_fp64(name):
    check(rope_write_reference, name)


def test_the_reference_turns_as_the_models_do():
    given = arguments(heads=(4, 2, 24), rotary=10, dtype=BF16)
    cos, sin = (jnp.concatenate([given[x], given[x]], axis=1) for x in ("cos", "sin"))
    got = rope_write_reference(**given).q
    np.testing.assert_array_equal(got, apply_rope(given["q"], (cos, sin)))


@needs_triton
@pytest.mark.parametrize("kv_dtype", [INT8, FP8])
def test_hostile_heads_are_quantised_to_the_same_bits_as_in_a_cache(kv_dtype):
    """Zeros, tiny and large numbers, ties, nan and infinities; keys turned by nothing."""
    given = arguments(heads=(1, 10, 12), kv_dtype=kv_dtype, places=((1, 2),))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 12)).astype(np.float32)
    x[1:5] *= np.asarray([[0.0], [1e-38], [1e-44], [1e37]], np.float32)
    x[5] = np.r_[127.0, np.arange(11) + 0.5]
    x[6], x[7, 3], x[8, 5], x[9, 0] = -0.0, np.nan, np.inf, -np.inf
    given |= {"k": jnp.asarray(x)[None], "v": jnp.asarray(x)[None]}
    given |= {"cos": jnp.ones((1, 6)), "sin": jnp.zeros((1, 6))}
    got = rope_write(**given, interpret=True)
    kind = DataType.INT8 if kv_dtype == INT8 else DataType.FLOAT8_E4M3FN
    values, scales = quantise(jnp.asarray(x)[None], kind)
    for pages, page_scales in ((got.k_pages, got.k_scales), (got.v_pages, got.v_scales)):
        np.testing.assert_array_equal(codes(pages[1, 2]), codes(as_stored(values, kind)[0]))
        np.testing.assert_array_equal(page_scales[1, 2], scales[0])


@needs_triton
def test_a_step_of_nothing_but_padding_writes_nothing():
    given = arguments(heads=(2, 1, 8), places=((-1, 0), (-1, 5)))
    got = rope_write(**given, interpret=True)
    assert_near(got.q, turned(given["q"], given), "float32")
    assert np.all(np.isnan(got.k_pages))
    assert np.all(np.isnan(got.v_pages))


@needs_triton
def test_a_token_by_itself_has_its_own_bits():
    given = arguments(heads=(9, 2, 24), kv_dtype=FP8)
    together = rope_write(**given, interpret=True)
    own = ("q", "k", "v", "cos", "sin", "write_pages", "write_slots")
    alone = rope_write(**given | {name: given[name][3:4] for name in own}, interpret=True)
    at = PLACES[3]
    np.testing.assert_array_equal(together.q[3], alone.q[0])
    np.testing.assert_array_equal(codes(together.k_pages[at]), codes(alone.k_pages[at]))
    np.testing.assert_array_equal(together.k_scales[at], alone.k_scales[at])


def e4m3_of(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def test_every_number_of_e4m3_has_its_bits_and_so_has_all_that_lies_between():
    """All finite values, the middles between neighbours, and what lies beside both."""
    bits = np.arange(256, dtype=np.uint8)
    bits = bits[(bits & 0x7F) != 0x7F]
    numbers = bits.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(e4m3_bits(jnp.asarray(numbers)), bits)
    numbers = np.sort(numbers)
    middles = (numbers[1:] + numbers[:-1]) / 2
    edges = np.r_[numbers, middles]
    near = np.r_[edges, np.nextafter(edges, np.float32(-448)), np.nextafter(edges, np.float32(448))]
    random = np.random.default_rng(0).uniform(-1, 1, 4096).astype(np.float32)
    x = np.r_[near, random * 448, random * 0.02, random * 1e-6].astype(np.float32)
    np.testing.assert_array_equal(e4m3_bits(jnp.asarray(x)), e4m3_of(x))


def test_nearest_is_rint():
    x = np.r_[np.arange(-300, 301) / 2, np.random.default_rng(0).normal(size=999) * 99]
    x = x.astype(np.float32)
    np.testing.assert_array_equal(nearest(jnp.asarray(x)), np.rint(x))
    np.testing.assert_array_equal(nearest(jnp.asarray(x), exponent=-2), np.rint(x * 4))


@pytest.mark.parametrize("function", [rope_write, rope_write_reference])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": jnp.zeros((8, 4))}, r"q is \(8, 4\); it must have 3 dimensions, none empty"),
        ({"q": jnp.zeros((8, 4, 16), jnp.int8)}, "q is int8; cast it to bfloat16 or float16"),
        ({"k": jnp.zeros((7, 2, 16))}, r"k is \(7, 2, 16\); beside q .* must be \(8, 2, 16\)"),
        ({"v": jnp.zeros((8, 2, 16), BF16)}, "v is bfloat16; cast it to float32"),
        ({"cos": jnp.zeros((8, 9))}, "for 18 rotary elements of a head of 16; .* at most 16"),
        ({"sin": jnp.zeros((8, 7))}, r"sin is \(8, 7\); beside q .* must be \(8, 8\)"),
        ({"cos": jnp.zeros((8, 8), BF16)}, "cos is bfloat16; cast it to float32"),
        ({"k_pages": jnp.zeros((6, 8, 2, 8), INT8)}, r"must be \(6, 8, 2, 16\)"),
        ({"v_pages": jnp.zeros((6, 4, 2, 16), INT8)}, r"v_pages is \(6, 4, 2, 16\); beside k"),
        ({"v_pages": jnp.zeros((6, 8, 2, 16))}, "v_pages is float32; cast it to int8"),
        ({"write_pages": jnp.zeros(7, jnp.int32)}, r"write_pages is \(7,\); .* must be \(8,\)"),
        ({"write_slots": jnp.zeros(8)}, "write_slots is float32; cast it to int32"),
        ({"k_scales": None}, "k_pages is int8 and k_scales is None; quantised pages have scales"),
        ({"v_scales": jnp.zeros((6, 8))}, r"v_scales is \(6, 8\); .* must be \(6, 8, 2\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(function, changes, message):
    with pytest.raises(ValueError, match=message):
        function(**arguments(heads=(4, 2, 16), kv_dtype=INT8) | changes)


def test_a_pool_that_offsets_do_not_reach_is_named():
    pages = jax.ShapeDtypeStruct((2**16, 16, 16, 256), jnp.uint8)
    with pytest.raises(NotImplementedError, match="has 4294967296 elements of one byte"):
        check_offsets(Destination(pages, pages))
