"""Norm, rope and sampling kernels compiled for NVIDIA GPUs that are not here: none of it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.fused import add_rms_norm, rope_write, top_p_sample
from tests.kernels.gpu_target import (
    GPUS,
    Target,
    assembled_calls,
    needs_gpu_compiler,
    ptxas,
    target,
)
from tests.kernels.triton import allow_deprecated

pytestmark = [needs_gpu_compiler, allow_deprecated]
BF16, F16, F32, INT32 = jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32
INT8, FP8 = jnp.int8, jnp.float8_e4m3fn
struct = jax.ShapeDtypeStruct


class Call(NamedTuple):
    """A kernel with arrays that are never made."""

    function: Callable[..., Any]
    arrays: dict[str, Any]
    donated: tuple[str, ...] = ()

    def compile(self, target: Target, name: str = "call") -> Any:
        """The program, called by a name; what is donated is overwritten."""
        rest = {key: x for key, x in self.arrays.items() if key not in self.donated}

        def call(donated: dict[str, Any], rest: dict[str, Any]) -> Any:
            return self.function(**donated, **rest)

        call.__name__ = name
        return target.compile(call, self.given, rest, donate=(0,))

    @property
    def given(self) -> dict[str, Any]:
        return {key: self.arrays[key] for key in self.donated}


def norm(tokens: int, size: int, dtype: Any = BF16, offset: float = 0.0) -> Call:
    x = struct((tokens, size), dtype)
    arrays = {"x": x, "residual": x, "weight": struct((size,), dtype)}
    return Call(partial(add_rms_norm, eps=1e-6, offset=offset), arrays)


def rope(
    heads: tuple[int, int, int], dtype: Any = BF16, kv_dtype: Any = None, rotary: int | None = None
) -> Call:
    """256 tokens over a pool of 16,384 pages of 16."""
    (N, K, H), T, places = heads, 256, (16_384, 16, heads[1])
    kv_dtype = jnp.dtype(kv_dtype or dtype)
    kv, pages = struct((T, K, H), dtype), struct((*places, H), kv_dtype)
    angles = struct((T, (rotary or H) // 2), F32)
    arrays = {
        "q": struct((T, N, H), dtype),
        "k": kv,
        "v": kv,
        "cos": angles,
        "sin": angles,
        "k_pages": pages,
        "v_pages": pages,
        "write_pages": struct((T,), INT32),
        "write_slots": struct((T,), INT32),
    }
    donated = ("k_pages", "v_pages")
    if kv_dtype.itemsize == 1:
        arrays |= {name: struct(places, F32) for name in ("k_scales", "v_scales")}
        donated += ("k_scales", "v_scales")
    return Call(rope_write, arrays, donated)


def top_p(rows: int, vocab: int) -> Call:
    each = struct((rows,), F32)
    logits = struct((rows, vocab), F32)
    options = {"temperature": each, "top_k": struct((rows,), INT32), "top_p": each, "min_p": each}
    return Call(top_p_sample, {"logits": logits, "gumbel": logits, **options})


CALLS = {
    "norm of 64": norm(512, 64),
    "norm of 4096": norm(512, 4096),
    "norm of 5120, f32, offset": norm(8, 5120, F32, 1.0),
    "norm of 16384, f16": norm(64, 16_384, F16),
    "norm of 18432": norm(64, 18_432),
    "rope, head 128": rope((32, 8, 128)),
    "rope, head 80, partial": rope((32, 32, 80), rotary=32),
    "rope, head 256, f32": rope((16, 16, 256), F32),
    "rope, mqa": rope((64, 1, 128), F16),
    "rope, int8": rope((32, 8, 128), kv_dtype=INT8),
    "rope, fp8": rope((32, 8, 128), kv_dtype=FP8),
    "rope, fp8, head 96, f16": rope((24, 8, 96), F16, FP8, rotary=24),
    "top-p of 512": top_p(4, 512),
    "top-p of 151936": top_p(64, 151_936),
    "top-p of 262144": top_p(256, 262_144),
}


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", CALLS)
def test_the_kernels_compile_and_copy_nothing(name, gpu):
    """What is donated is the same memory before and after, and there are no temporaries."""
    call = CALLS[name]
    memory = call.compile(target(gpu)).memory_analysis()
    sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(call.given)]
    assert memory.alias_size_in_bytes >= sum(sizes)
    assert memory.temp_size_in_bytes <= 1024


@pytest.mark.skipif(ptxas() is None, reason="ptxas is not installed (pip: nvidia-cuda-nvcc)")
def test_no_kernel_spills_registers_on_an_h200(tmp_path):
    check_registers(__name__, CALLS, tmp_path, spills={})


def check_registers(module: str, calls: Iterable[str], dump: Path, spills: dict[str, int]) -> None:
    """A kernel for each call of a module, and no more spilled bytes than its name allows."""
    found = {kernel.program: kernel for kernel in assembled_calls(module, dump, "fused_")}
    for index, name in enumerate(calls):
        kernel = found[f"call{index}"]
        assert 0 < kernel.registers <= 255, (name, kernel)
        assert kernel.spilled <= spills.get(name, 0), (name, kernel)
