"""The kernels and whole steps compiled for NVIDIA GPUs that are not here: none of it is run.

XLA refuses a kernel that wants more shared memory than a block of the GPU can have.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from ferrum_jax.attention import choose_attention
from ferrum_jax.kv import make_cache
from ferrum_jax.models.shapes import flatten_shapes, unflatten
from ferrum_jax.runtime.step import run_step
from ferrum_jax.runtime.tiles import run_tiled_step
from ferrum_jax.sampler import make_sampling_state
from ferrum_jax.types import (
    AttentionConfig,
    DataType,
    DeviceInfo,
    KVCacheConfig,
    LayerSpec,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    NormKind,
    RopeConfig,
    StepBatch,
    StepShape,
    Taps,
)
from pallas_kernels import paged_attention
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
BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32
INT8, FP8 = jnp.int8, jnp.float8_e4m3fn


class Call(NamedTuple):
    """A shape of paged attention: 512 tokens of 16 rows, prefill and decode."""

    heads: tuple[int, int, int]
    dtype: Any = BF16
    kv_dtype: Any = None
    value_dim: int | None = None
    in_keys: bool = False
    page: int = 16
    pages: int = 4096
    options: tuple[tuple[str, Any], ...] = ()
    extras: tuple[str, ...] = ()
    tokens: int = 512
    rows: int = 16
    implementation: str = "triton"

    def compile(self, target: Target, name: str = "call") -> Any:
        """The program, called by a name; its pages are never made."""
        (N, K, H), shape = self.heads, jax.ShapeDtypeStruct
        kv_dtype = jnp.dtype(self.kv_dtype or self.dtype)
        pages = (self.pages, self.page, K)
        V = self.value_dim or H
        arrays = {
            "q": shape((self.tokens, N, H), self.dtype),
            "k_pages": shape((*pages, H), kv_dtype),
            "v_pages": None if self.in_keys else shape((*pages, V), kv_dtype),
            "block_tables": shape((self.rows, 128), jnp.int32),
            "context_lens": shape((self.rows,), jnp.int32),
            "query_starts": shape((self.rows + 1,), jnp.int32),
        }
        if kv_dtype.itemsize == 1:
            arrays["k_scales"] = shape(pages, F32)
            arrays |= {} if self.in_keys else {"v_scales": shape(pages, F32)}
        arrays |= {name: shape((N,), F32) for name in self.extras}
        options = dict(self.options) | ({"value_dim": V} if self.in_keys else {})
        attend = partial(
            paged_attention,
            scale=0.1,
            implementation=self.implementation,
            return_lse=True,
            **options,
        )

        def call(arrays: dict[str, Any]) -> Any:
            return attend(**arrays)

        call.__name__ = name
        return target.compile(call, arrays)

    @property
    def pool_bytes(self) -> int:
        (_, K, H), dtype = self.heads, jnp.dtype(self.kv_dtype or self.dtype)
        return self.pages * self.page * K * H * dtype.itemsize


EVERYTHING = (("window", 100), ("soft_cap", 30.0))
CALLS = {
    "head 64, page 8": Call((12, 2, 64), page=8),
    "head 80": Call((32, 8, 80), options=EVERYTHING, extras=("sinks",)),
    "head 96, mha": Call((32, 32, 96)),
    "head 128": Call((32, 8, 128)),
    "head 128, mqa, page 32": Call((32, 1, 128), page=32),
    "head 128, all": Call(
        (32, 8, 128), options=EVERYTHING, extras=("sinks", "alibi_slopes"), kv_dtype=INT8
    ),
    "head 192, values of 128": Call((32, 8, 192), value_dim=128),
    "head 256, page 64": Call((32, 16, 256), page=64),
    "latent": Call((128, 1, 576), value_dim=512, in_keys=True),
    "latent, fp8": Call((128, 1, 576), value_dim=512, in_keys=True, kv_dtype=FP8, pages=16_384),
    "chunk": Call((40, 8, 128), options=(("chunk", 8192),)),
    "alibi, rounded": Call(
        (16, 1, 64), extras=("alibi_slopes",), options=(("alibi_rounded", True),)
    ),
    "int8": Call((32, 8, 128), kv_dtype=INT8),
    "fp8": Call((32, 8, 128), kv_dtype=FP8),
    "f16": Call((32, 8, 128), dtype=F16),
    "f16 over fp8": Call((32, 8, 128), dtype=F16, kv_dtype=FP8),
    "f32": Call((32, 8, 128), dtype=F32),
    "f32, head 256": Call((16, 16, 256), dtype=F32),
    "f32, latent": Call((128, 1, 576), value_dim=512, in_keys=True, dtype=F32),
    "a pool of 2^33 elements": Call((32, 8, 128), pages=2**19),
    "decodes": Call((32, 8, 128), tokens=256, rows=256),
}
SPILLS = {"latent": 16}
"""Bytes that a kernel may spill where not none; jax 0.11.2 and ptxas 13.5 spill 8."""


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", CALLS)
def test_the_kernels_compile(name, gpu):
    call = CALLS[name]
    program = call.compile(target(gpu))
    assert program.memory_analysis().temp_size_in_bytes < call.pool_bytes / 4


@pytest.mark.skipif(ptxas() is None, reason="ptxas is not installed (pip: nvidia-cuda-nvcc)")
def test_no_kernel_spills_registers_on_an_h200(tmp_path):
    found = assembled_calls(__name__, tmp_path, "paged_")
    for index, name in enumerate(CALLS):
        mine = {kernel.name: kernel for kernel in found if kernel.program == f"call{index}"}
        prefill = set() if name == "decodes" else {"paged_prefill"}
        assert set(mine) == {"paged_decode_split", "paged_decode_merge"} | prefill, name
        for kernel in mine.values():
            assert 0 < kernel.registers <= 255, (name, kernel)
            assert kernel.spilled <= SPILLS.get(name, 0), (name, kernel)


GROUPED = AttentionConfig(
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    scale=128**-0.5,
    rope=RopeConfig(),
    qk_norm=NormKind.RMS,
)
LATENT = MLAConfig(
    16, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, scale=0.07, rope=RopeConfig()
)
MODELS = {
    "grouped": (GROUPED, GROUPED),
    "window, sinks": (replace(GROUPED, window=128), replace(GROUPED, sinks=True)),
    "latent": (LATENT, LATENT),
}
EVERY_CASE = pytest.mark.every_case
H200 = DeviceInfo("gpu", "NVIDIA H200", 1, None, None, 9.0)


def step_of(
    model: str,
    shape: StepShape,
    kv_dtype: DataType,
    step: Any = run_step,
    attention: str = "triton",
) -> tuple:
    """A jitted step's function and its arguments, none of which is made."""
    layers = tuple(LayerSpec(attention, MLPConfig(2048)) for attention in MODELS[model])
    config = ModelConfig("llama", 32_000, 1024, layers, 8192, tie_embeddings=True)
    kv = KVCacheConfig(num_pages=8192, page_size=16, dtype=kv_dtype)
    params = unflatten(
        config,
        {name: jax.ShapeDtypeStruct(x, BF16) for name, x in flatten_shapes(config).items()},
    )
    cache = jax.eval_shape(partial(make_cache, config, kv))
    sampling = jax.eval_shape(partial(make_sampling_state, shape.rows, 2048, config.vocab_size))
    R, struct = shape.rows, jax.ShapeDtypeStruct
    batch = StepBatch(
        slots=struct((R,), jnp.int32),
        query_starts=struct((R + 1,), jnp.int32),
        context_lens=struct((R,), jnp.int32),
        samples=struct((R,), bool),
        block_tables=struct((R, 128), jnp.int32),
    )
    bind = choose_attention(attention, H200, config, kv)
    function = partial(step, config=config, shape=shape, bind=bind)
    return function, (params, cache, batch, sampling, Taps())


@pytest.mark.parametrize(
    ("model", "shape", "kv_dtype", "gpu"),
    [
        ("grouped", (16, 16), DataType.BFLOAT16, "H200"),
        pytest.param("grouped", (16, 16), DataType.BFLOAT16, "A100", marks=EVERY_CASE),
        ("grouped", (512, 16), DataType.BFLOAT16, "H200"),
        pytest.param("grouped", (512, 16), DataType.BFLOAT16, "RTX 4090", marks=EVERY_CASE),
        pytest.param("grouped", (16, 16), DataType.INT8, "H200", marks=EVERY_CASE),
        ("window, sinks", (64, 16), DataType.FLOAT8_E4M3FN, "H200"),
        ("latent", (64, 16), DataType.BFLOAT16, "H200"),
    ],
)
def test_a_whole_step_compiles_and_copies_no_cache(model, shape, kv_dtype, gpu):
    function, arguments = step_of(model, StepShape(*shape), kv_dtype)
    program = target(gpu).compile(function, *arguments, donate=(1, 3))
    check_step(program, arguments[1])


def test_a_batch_invariant_step_compiles_and_copies_no_cache():
    shape = StepShape(64, 16)
    function, arguments = step_of("grouped", shape, DataType.BFLOAT16, run_tiled_step)
    program = target("H200").compile(function, *arguments, donate=(1, 3))
    check_step(program, arguments[1])


def check_step(program: Any, cache: Any, kernel: str = "paged_decode_split") -> None:
    """The cache is the same memory before and after, and no temporary is as large as a layer's."""
    memory, text = program.memory_analysis(), program.as_text()
    assert kernel in text
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache.layers)]
    assert memory.alias_size_in_bytes >= sum(sizes)
    assert memory.temp_size_in_bytes < max(sizes) / 2
