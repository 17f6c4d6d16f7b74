"""What `rope_write` writes and where to, and which arrays fit together.

Dimension key: T tokens, N query heads, K kv heads, H head, V value head, P pages.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pallas_kernels.checks import DTYPES, check_dtype, check_rank, check_shape, offsets_overflow
from pallas_kernels.fused.eight_bits import LARGEST


class Tokens(NamedTuple):
    """What is written, and where; arrays outside the kernel, references inside."""

    q: Any
    k: Any
    v: Any
    cos: Any
    sin: Any
    pages: Any
    slots: Any


class Destination(NamedTuple):
    """Where it is written to; float8 as its bits inside the kernel."""

    k: Any
    v: Any
    k_scales: Any = None
    v_scales: Any = None


def check_offsets(pool: Destination) -> None:
    """Raise NotImplementedError for a pool that the kernel cannot reach into."""
    for name, pages in {"k_pages": pool.k, "v_pages": pool.v}.items():
        if pages.dtype.itemsize == 1 and offsets_overflow(pages.size):
            raise NotImplementedError(
                f"{name} has {pages.size} elements of one byte, between 2^31 and 2^32, where "
                "Pallas-Triton's offsets overflow; use fewer pages, or rope_write_reference"
            )


def check_written(tokens: Tokens, pool: Destination) -> None:
    """Raise ValueError unless shapes and dtypes fit together."""
    q, k, v = tokens.q, tokens.k, tokens.v
    for name, array, rank in (("q", q, 3), ("k", k, 3), ("v", v, 3), ("k_pages", pool.k, 4)):
        check_rank(name, array, rank)
    check_rank("cos", tokens.cos, 2)
    (T, _, H), K, V, places = q.shape, k.shape[1], v.shape[2], pool.k.shape[:3]
    if 2 * tokens.cos.shape[1] > H:
        raise ValueError(
            f"cos is {tokens.cos.shape}, for {2 * tokens.cos.shape[1]} rotary elements of a head "
            f"of {H}; it must be [T, rotary / 2] with rotary at most {H}"
        )
    for name, array, shape in (
        ("k", k, (T, K, H)),
        ("v", v, (T, K, V)),
        ("cos", tokens.cos, (T, tokens.cos.shape[1])),
        ("sin", tokens.sin, tokens.cos.shape),
        ("write_pages", tokens.pages, (T,)),
        ("write_slots", tokens.slots, (T,)),
    ):
        check_shape(name, array, shape, f"q {q.shape}")
    for name, array, shape in (
        ("k_pages", pool.k, (*places[:2], K, H)),
        ("v_pages", pool.v, (*places[:2], K, V)),
        ("k_scales", pool.k_scales, places),
        ("v_scales", pool.v_scales, places),
    ):
        if array is not None:
            check_shape(name, array, shape, f"k {k.shape} and k_pages {pool.k.shape}")
    _check_dtypes(tokens, pool)


def _check_dtypes(tokens: Tokens, pool: Destination) -> None:
    check_dtype("q", tokens.q, DTYPES)
    for name, array in {"k": tokens.k, "v": tokens.v}.items():
        check_dtype(name, array, (tokens.q.dtype.name,))
    for name, array in {"write_pages": tokens.pages, "write_slots": tokens.slots}.items():
        check_dtype(name, array, ("int32",))
    check_dtype("k_pages", pool.k, (*DTYPES, *LARGEST))
    check_dtype("v_pages", pool.v, (pool.k.dtype.name,))
    quantised = pool.k.dtype.name in LARGEST
    for name, array in {
        "cos": tokens.cos,
        "sin": tokens.sin,
        "k_scales": pool.k_scales,
        "v_scales": pool.v_scales,
    }.items():
        if array is not None:
            check_dtype(name, array, ("float32",))
        if name.endswith("scales") and quantised != (array is not None):
            raise ValueError(
                f"k_pages is {pool.k.dtype} and {name} is "
                f"{'None' if array is None else 'given'}; quantised pages have scales, others none"
            )
