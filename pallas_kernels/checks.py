"""What paged attention asks of its arguments; each message names the value and the remedy."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.online import Pool
from pallas_kernels.rules import Rules

DTYPES = ("bfloat16", "float16", "float32")
QUANTISED = ("int8", "uint8")
"""uint8 holds the bits of float8_e4m3fn."""
IMPLEMENTATIONS = ("auto", "xla", "triton", "mosaic")
MOSAIC_DTYPES, MOSAIC_HEAD, MOSAIC_LATENT = ("bfloat16", "float16"), 256, 576
"""What the Mosaic kernels take: dtypes of queries, elements of a head, and of a latent one."""
LARGEST_HEAD = 576
"""Elements of a head beyond which a tile of keys does not fit beside its values on a GPU."""


def has_triton() -> bool:
    """Whether this jax has the Pallas-Triton that the kernels need."""
    return hasattr(plgpu, "load")


def offsets_overflow(num_elements: int) -> bool:
    """Whether Pallas-Triton's offsets overflow in an array of so many elements of one byte.

    jax computes them in 32 bits, with a sign, for arrays of up to 2^32 bytes.
    """
    return 2**31 < num_elements <= 2**32


def triton_refusal(
    *, head_dim: int, page_dtype: str, num_elements: int, q_dtype: str = "float32"
) -> str | None:
    """Why the Triton kernels cannot run a shape; None where they can."""
    if not has_triton():
        return (
            f"the Triton kernels need Pallas as in jax 0.10, and this is jax {jax.__version__}; "
            "use implementation 'xla'"
        )
    if head_dim > LARGEST_HEAD:
        return (
            f"heads of {head_dim} elements are more than the Triton kernels' {LARGEST_HEAD}; "
            "use implementation 'xla'"
        )
    if q_dtype not in DTYPES:
        return f"queries of {q_dtype} are not for the Triton kernels; use implementation 'xla'"
    if page_dtype in QUANTISED and offsets_overflow(num_elements):
        return (
            f"a pool of {num_elements} elements of one byte is between 2^31 and 2^32, where "
            "Pallas-Triton's offsets overflow; use fewer pages, or implementation 'xla'"
        )
    return None


def mosaic_problem() -> str | None:
    """What the Mosaic kernels miss here, whatever they are to run."""
    if jax.__version_info__ < (0, 11):
        return f"need jax 0.11, and this is jax {jax.__version__}"
    if importlib.util.find_spec("absl") is None:
        return "need the package absl-py"
    return None


def mosaic_refusal(
    *,
    head_dim: int,
    value_dim: int,
    page: int,
    page_dtype: str,
    q_dtype: str,
    latent: bool = False,
    alibi: bool = False,
) -> str | None:
    """Why the Mosaic kernels, which are for Hopper GPUs, cannot run a shape; None where they can.

    Args:
        latent: a value is the beginning of its key.
    """
    problem = None
    most = MOSAIC_LATENT if latent else MOSAIC_HEAD
    if alibi:
        problem = "do not do ALiBi"
    elif q_dtype not in MOSAIC_DTYPES or page_dtype not in (q_dtype, *QUANTISED):
        problem = (
            "take queries and pages that are both bfloat16 or both float16, or quantised pages, "
            f"not {q_dtype} over {page_dtype}"
        )
    elif page_dtype in QUANTISED and q_dtype != "bfloat16":
        # Weights times small scales are no float16.
        problem = f"take bfloat16 queries over quantised pages, not {q_dtype}"
    elif bad := [size for size in (head_dim, value_dim) if size % 16 or size > most]:
        problem = f"take heads of multiples of 16 up to {most} elements, not {bad[0]}"
    elif value_dim > head_dim:
        problem = f"take values that are no longer than their keys, not {value_dim} for {head_dim}"
    elif page < 8 or page & (page - 1):
        problem = f"take pages of 8, 16, 32, ... tokens, not {page}"
    problem = mosaic_problem() or problem
    return problem and f"the Mosaic kernels {problem}; use implementation 'triton' or 'xla'"


def refusal(
    implementation: str, q: jax.Array, pool: Pool, rules: Rules, slopes: jax.Array | None = None
) -> str | None:
    """Why an implementation cannot run a call; None where it can."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is not known; "
            f"choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    if implementation == "xla":
        return None
    if implementation == "mosaic":
        return mosaic_refusal(
            head_dim=q.shape[2],
            value_dim=rules.value_dim,
            page=pool.k.shape[1],
            page_dtype=pool.k.dtype.name,
            q_dtype=q.dtype.name,
            latent=pool.v is None,
            alibi=slopes is not None,
        )
    arrays = [pool.k] if pool.v is None else [pool.k, pool.v]
    for pages in arrays:
        problem = triton_refusal(
            head_dim=max(pages.shape[3], rules.value_dim),
            q_dtype=q.dtype.name,
            page_dtype=pages.dtype.name,
            num_elements=pages.size,
        )
        if problem is not None:
            return problem
    return None


def check_rules(rules: Rules, *, head_dim: int, value_dim: int | None, has_values: bool) -> None:
    """Raise ValueError for a count below 1, or a size of values that is given twice or not."""
    for name, count in {"window": rules.window, "chunk": rules.chunk}.items():
        if count is not None and count < 1:
            raise ValueError(f"{name}={count} must be at least 1, or None")
    if rules.soft_cap is not None and not rules.soft_cap > 0:
        raise ValueError(f"soft_cap={rules.soft_cap} must be above 0, or None")
    if has_values and value_dim is not None:
        raise ValueError(f"value_dim={value_dim} is for v_pages=None; leave it out, or v_pages")
    if not has_values and (value_dim is None or not 1 <= value_dim <= head_dim):
        raise ValueError(f"value_dim={value_dim}; without v_pages it must be from 1 to {head_dim}")


def check_arrays(
    q: jax.Array,
    pool: Pool,
    context_lens: jax.Array,
    query_starts: jax.Array,
    sinks: jax.Array | None,
    slopes: jax.Array | None,
) -> None:
    """Raise ValueError unless shapes and dtypes fit together."""
    named = {"q": (q, 3), "k_pages": (pool.k, 4), "block_tables": (pool.tables, 2)}
    for name, (array, rank) in named.items():
        check_rank(name, array, rank)
    (_, N, H), (P, page, K, _), R = q.shape, pool.k.shape, pool.tables.shape[0]
    V = H if pool.v is None else pool.v.shape[-1]
    for name, array, shape in (
        ("k_pages", pool.k, (P, page, K, H)),
        ("v_pages", pool.v, (P, page, K, V)),
        ("k_scales", pool.k_scales, (P, page, K)),
        ("v_scales", pool.v_scales, (P, page, K)),
        ("context_lens", context_lens, (R,)),
        ("query_starts", query_starts, (R + 1,)),
        ("sinks", sinks, (N,)),
        ("alibi_slopes", slopes, (N,)),
    ):
        if array is not None:
            check_shape(name, array, shape, f"q {q.shape}")
    if N % K:
        raise ValueError(f"{N} query heads cannot share {K} kv heads: K must divide N")
    _check_dtypes(q, pool, context_lens, query_starts)


def _check_dtypes(
    q: jax.Array, pool: Pool, context_lens: jax.Array, query_starts: jax.Array
) -> None:
    if q.dtype.name not in (*DTYPES, "float64"):
        raise ValueError(f"q is {q.dtype}; cast it to bfloat16, float16 or float32")
    for name, array in {
        "block_tables": pool.tables,
        "context_lens": context_lens,
        "query_starts": query_starts,
    }.items():
        if array.dtype != jnp.int32:
            raise ValueError(f"{name} is {array.dtype}; cast it to int32")
    for name, pages, scales in (
        ("k", pool.k, pool.k_scales),
        ("v", pool.v, pool.v_scales),
    ):
        if pages is None:
            continue
        if pages.dtype.name not in (*DTYPES, *QUANTISED, "float64"):
            raise ValueError(
                f"{name}_pages is {pages.dtype}; cast it to bfloat16, float16 or float32, or "
                "quantise it to int8 or float8_e4m3fn"
            )
        if (pages.dtype.name in QUANTISED) != (scales is not None):
            raise ValueError(
                f"{name}_pages is {pages.dtype} and {name}_scales is "
                f"{'given' if scales is not None else 'None'}; quantised pages have scales, "
                "others have none"
            )
    if pool.v is None and pool.v_scales is not None:
        raise ValueError("v_scales is given and v_pages is None; values have their keys' scales")


def check_triton(function: str) -> None:
    """Raise NotImplementedError where this jax has no Pallas-Triton as the kernels need it."""
    if not has_triton():
        raise NotImplementedError(
            f"{function} needs Pallas as in jax 0.10, and this is jax {jax.__version__}; "
            f"use {function}_reference"
        )


def check_rank(name: str, array: jax.Array, rank: int) -> None:
    """Raise ValueError unless an array has so many dimensions, none of them empty."""
    if array.ndim != rank or 0 in array.shape:
        raise ValueError(f"{name} is {array.shape}; it must have {rank} dimensions, none empty")


def check_shape(name: str, array: jax.Array, shape: tuple[int, ...], beside: str) -> None:
    """Raise ValueError unless an array has the shape that another one asks for."""
    if array.shape != shape:
        raise ValueError(f"{name} is {array.shape}; beside {beside} it must be {shape}")


def check_dtype(name: str, array: jax.Array, dtypes: tuple[str, ...]) -> None:
    """Raise ValueError unless an array has one of the dtypes."""
    if array.dtype.name not in dtypes:
        raise ValueError(f"{name} is {array.dtype}; cast it to {' or '.join(dtypes)}")
