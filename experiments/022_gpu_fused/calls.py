"""The calls that are checked and timed, and what they must at least move and compute."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from config import (
    OTHER_TOKENS,
    QUANTISED_TOLERANCE,
    TOLERANCE,
    Experts,
    Norm,
    Rope,
    Rounded,
    Sample,
    Work,
)

from pallas_kernels.fused.grouped_matmul import grouped_matmul, grouped_matmul_reference
from pallas_kernels.fused.norm import add_rms_norm, add_rms_norm_reference
from pallas_kernels.fused.quantised_matmul import quantised_matmul, quantised_matmul_reference
from pallas_kernels.fused.rope_write import rope_write, rope_write_reference
from pallas_kernels.fused.top_p import top_p_sample, top_p_sample_reference

PAGE = 16
SPREAD = {"int8": 73.3, "fp8": 64.0, "int4": 4.6}
"""The standard deviation of random values of a kind."""
GROUP = 32


@dataclass(frozen=True)
class Call:
    """A kernel, its statement in jnp, and their arguments."""

    kernel: Callable[..., Any]
    reference: Callable[..., Any]
    given: dict[str, Any]
    moved: float
    """Bytes."""
    flops: float = 0.0
    overwritten: tuple[str, ...] = ()
    """Arguments in whose place results of the same name come."""

    def step(self, function: Callable[..., Any], state: tuple[dict, Any]) -> tuple[dict, Any]:
        """The arguments and the results of one call, from those of the call before."""
        # Behind the barrier nothing is the same in every turn of a loop: XLA takes none of it out.
        given = jax.lax.optimization_barrier(state[0])
        result = function(**given)
        if not self.overwritten:
            return given, result
        fields = result._asdict()
        kept = {name: x for name, x in fields.items() if name not in self.overwritten}
        return given | {name: fields[name] for name in self.overwritten}, kept

    def first_state(self, function: Callable[..., Any]) -> tuple[dict, Any]:
        """Arguments, and zeros for results."""
        _, results = jax.eval_shape(partial(self.step, function), (self.given, None))
        return self.given, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), results)


def make_call(work: Work) -> Call:
    """A call with random arguments."""
    return MAKERS[type(work)](work)


@cache
def normal(index: int, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    """Random numbers, others for each index; made once, for many rows share a matrix."""
    return jax.random.normal(jax.random.key(index), shape, dtype)


def _norm(work: Norm) -> Call:
    shape = (work.rows, work.size)
    given = {
        "x": normal(0, shape, work.dtype),
        "residual": normal(1, shape, work.dtype),
        "weight": normal(2, shape[1:], work.dtype),
    }
    kernel, reference = (partial(f, eps=1e-6) for f in (add_rms_norm, add_rms_norm_reference))
    moved = 4 * given["x"].nbytes + given["weight"].nbytes
    return Call(kernel, reference, given, moved)


def _rope(work: Rope) -> Call:
    T, K, H = work.rows, work.kv_heads, work.head_dim
    num_pages = 2 * (T // PAGE + 1)
    places = np.random.default_rng(0).permutation(num_pages * PAGE)[:T]
    angles = normal(3, (T, H // 2))
    pages = jnp.zeros((num_pages, PAGE, K, H), work.kv_dtype)
    given = {
        "q": normal(0, (T, work.heads, H), work.dtype),
        "k": normal(1, (T, K, H), work.dtype),
        "v": normal(2, (T, K, H), work.dtype),
        "cos": jnp.cos(angles),
        "sin": jnp.sin(angles),
        "k_pages": pages,
        "v_pages": pages,
        "write_pages": jnp.asarray(places // PAGE, jnp.int32),
        "write_slots": jnp.asarray(places % PAGE, jnp.int32),
    }
    overwritten = ("k_pages", "v_pages")
    written = 2 * T * K * H * pages.dtype.itemsize
    if pages.dtype.itemsize == 1:
        given |= {name: jnp.ones(pages.shape[:3]) for name in ("k_scales", "v_scales")}
        overwritten += ("k_scales", "v_scales")
        written += 2 * T * K * 4
    read = sum(given[name].nbytes for name in ("q", "k", "v", "cos", "sin"))
    moved = read + given["q"].nbytes + written
    return Call(rope_write, rope_write_reference, given, moved, overwritten=overwritten)


def _sample(work: Sample) -> Call:
    shape = (work.rows, work.vocab)
    given = {
        "logits": 3 * normal(0, shape),
        "gumbel": jax.random.gumbel(jax.random.key(1), shape),
        "temperature": jnp.full(work.rows, 0.8),
        "top_k": jnp.full(work.rows, min(50, work.vocab), jnp.int32),
        "top_p": jnp.full(work.rows, 0.9),
        "min_p": jnp.full(work.rows, 0.02),
    }
    return Call(top_p_sample, top_p_sample_reference, given, moved=2 * given["logits"].nbytes)


def _rounded(work: Rounded) -> Call:
    inputs, outputs = work.inputs, work.outputs
    key, scale = jax.random.key(1), 1 / (SPREAD[work.kind] * inputs**0.5)
    scales = jnp.full(outputs, scale)
    if work.kind == "int8":
        values = jax.random.randint(key, (inputs, outputs), -127, 128, jnp.int8)
    elif work.kind == "fp8":
        values = (normal(1, (inputs, outputs)) * SPREAD["fp8"]).astype(jnp.float8_e4m3fn)
    else:
        values = jax.random.bits(key, (inputs // 2, outputs), jnp.uint8)
        scales = jnp.full((inputs // GROUP, outputs), scale)
    x = normal(0, (work.rows, inputs), work.dtype)
    moved = values.nbytes + scales.nbytes + x.nbytes + work.rows * outputs * x.dtype.itemsize
    given = {"x": x, "values": values, "scales": scales}
    flops = 2.0 * work.rows * inputs * outputs
    return Call(quantised_matmul, quantised_matmul_reference, given, moved, flops)


def _experts(work: Experts) -> Call:
    rng, rows = np.random.default_rng(0), work.rows * work.chosen
    chosen = [rng.permutation(work.experts)[: work.chosen] for _ in range(work.rows)]
    sizes = np.bincount(np.concatenate(chosen), minlength=work.experts)
    shape = (work.experts, work.inputs, work.outputs)
    given = {
        "x": normal(0, (rows, work.inputs), work.dtype),
        "weights": normal(1, shape, work.dtype) * work.inputs**-0.5,
        "group_sizes": jnp.asarray(sizes, jnp.int32),
    }
    size = given["x"].dtype.itemsize
    matrices = np.count_nonzero(sizes) * work.inputs * work.outputs
    moved = size * (matrices + rows * (work.inputs + work.outputs))
    flops = 2.0 * rows * work.inputs * work.outputs
    return Call(grouped_matmul, grouped_matmul_reference, given, float(moved), flops)


MAKERS: dict[type, Callable[[Any], Call]] = {
    Norm: _norm,
    Rope: _rope,
    Sample: _sample,
    Rounded: _rounded,
    Experts: _experts,
}


def worst_error(work: Work, call: Call, interpret: bool) -> float:
    """The largest difference from the reference in fp32; of tokens the share that differs."""
    got = call.kernel(**call.given, interpret=interpret)
    exact = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == work.dtype else x, call.given
    )
    want = call.reference(**exact)
    if isinstance(work, Sample):
        return float(jnp.mean(got != want))
    pairs = zip(_numbers(got), _numbers(want), strict=True)
    return max(float(jnp.max(jnp.abs(a - b) / jnp.maximum(1, jnp.abs(b)))) for a, b in pairs)


def tolerance_of(work: Work) -> float:
    """What `worst_error` may be."""
    if isinstance(work, Sample):
        return OTHER_TOKENS
    if isinstance(work, Rope) and jnp.dtype(work.kv_dtype).itemsize == 1:
        return QUANTISED_TOLERANCE
    return TOLERANCE[work.dtype]


def _numbers(result: Any) -> list[jax.Array]:
    """Results in fp32; pages in eight bits as the numbers that they stand for."""
    if getattr(result, "k_scales", None) is not None:
        k, v = (
            pages.astype(jnp.float32) * scales[..., None]
            for pages, scales in (
                (result.k_pages, result.k_scales),
                (result.v_pages, result.v_scales),
            )
        )
        result = result.q, k, v
    return [x.astype(jnp.float32) for x in jax.tree.leaves(result)]
