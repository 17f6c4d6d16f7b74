"""Quantised and grouped products compiled for NVIDIA GPUs that are not here: none of it is run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.fused.grouped_matmul import grouped_matmul
from pallas_kernels.fused.quantised_matmul import quantised_matmul
from tests.kernels.gpu_target import (
    GPUS,
    needs_gpu_compiler,
    ptxas,
    target,
)
from tests.kernels.test_fused_compile import Call, check_registers
from tests.kernels.triton import allow_deprecated

pytestmark = [needs_gpu_compiler, allow_deprecated]
BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32
INT8, FP8, BITS = jnp.int8, jnp.float8_e4m3fn, jnp.uint8
UP, DOWN, SMALL = (4096, 14_336), (14_336, 4096), (1024, 3072)
"""Inputs and outputs of a dense block: of 8 billion parameters, and of 0.6."""
SMALLEST_PROGRAM = 1024
"""Bytes that a program may want beside its arguments and results."""
struct = jax.ShapeDtypeStruct


def rounded(
    rows: int, shape: tuple[int, int], kind: Any, dtype: Any = BF16, group: int | None = None
) -> Call:
    inputs, outputs = shape
    halves, scales = (1, (outputs,)) if group is None else (2, (inputs // group, outputs))
    arrays = {
        "x": struct((rows, inputs), dtype),
        "values": struct((inputs // halves, outputs), kind),
        "scales": struct(scales, F32),
    }
    return Call(quantised_matmul, arrays)


def grouped(rows: int, weights: tuple[int, int, int], dtype: Any = BF16) -> Call:
    arrays = {
        "x": struct((rows, weights[1]), dtype),
        "weights": struct(weights, dtype),
        "group_sizes": struct(weights[:1], jnp.int32),
    }
    return Call(grouped_matmul, arrays)


CALLS = {
    **{f"int8, {rows} rows": rounded(rows, UP, INT8) for rows in (1, 32, 64, 256, 2048)},
    **{f"int4, {rows} rows": rounded(rows, UP, BITS, group=32) for rows in (1, 32, 64, 256, 2048)},
    **{f"fp8, {rows} rows": rounded(rows, DOWN, FP8) for rows in (16, 64, 2048)},
    "int8, f16": rounded(16, DOWN, INT8, F16),
    "int4, groups of 128": rounded(16, DOWN, BITS, group=128),
    "int4, groups of 8": rounded(64, SMALL, BITS, group=8),
    "int4, groups of 24": rounded(16, (1536, 4096), BITS, group=24),
    "int4, f16": rounded(300, SMALL, BITS, F16, group=16),
    "fp8 as bits, odd sizes": rounded(5, (1000, 777), BITS),
    **{f"int8, f32, {rows} rows": rounded(rows, UP, INT8, F32) for rows in (1, 64, 2048)},
    **{f"int4, f32, {rows} rows": rounded(rows, UP, BITS, F32, 32) for rows in (1, 64, 2048)},
    "experts, decode": grouped(128, (8, *UP)),
    "experts, prefill": grouped(4096, (8, *UP)),
    "many experts": grouped(512, (128, 2048, 768)),
    "many experts, f16, odd sizes": grouped(100, (60, 1000, 777), F16),
    "experts, f32": grouped(300, (8, *DOWN), F32),
}
SPILLS = {"fp8 as bits, odd sizes": 16}
"""Bytes that a kernel may spill where not none; jax 0.11.2 and ptxas 13.5 spill 8."""


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", CALLS)
def test_the_kernels_compile_and_turn_no_weights_into_floats(name, gpu):
    """What is kept beside the result are partial sums, of less than a byte for 4 weights."""
    call = CALLS[name]
    memory = call.compile(target(gpu)).memory_analysis()
    allowed = 0
    if "values" in call.arrays:
        allowed = call.arrays["x"].shape[1] * call.arrays["values"].shape[1] // 4
    assert memory.temp_size_in_bytes <= allowed + SMALLEST_PROGRAM


@pytest.mark.skipif(ptxas() is None, reason="ptxas is not installed (pip: nvidia-cuda-nvcc)")
def test_no_kernel_spills_registers_on_an_h200(tmp_path):
    check_registers(__name__, CALLS, tmp_path, SPILLS)
