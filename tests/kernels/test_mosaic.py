"""The Mosaic kernels, for Hopper GPUs: interpreted with their races looked for, and compiled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from ferrum_jax.types import DataType, StepShape
from pallas_kernels import checks
from tests.kernels.gpu_target import needs_gpu_compiler, ptxas, target
from tests.kernels.test_gpu_compile import Call, check_step, step_of
from tests.kernels.triton import allow_deprecated

missing = checks.mosaic_problem()
pytestmark = [
    allow_deprecated,
    pytest.mark.skipif(missing is not None, reason=f"the Mosaic kernels {missing}"),
]
ROOT = Path(__file__).parents[2]
THREADS = {"NPROC": "16"}
"""For XLA's pool: on two threads an interpreted kernel may wait forever."""


def test_the_interpreted_kernels():
    command = [sys.executable, "-m", "pytest", "-n0", "tests/kernels/interpreted_mosaic.py"]
    ended = subprocess.run(
        command, env=os.environ | THREADS, cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert ended.returncode == 0, ended.stdout[-6000:]
    (passed,) = re.findall(r"(\d+) passed", ended.stdout)
    assert int(passed) > 15, ended.stdout


FP8 = jnp.float8_e4m3fn
COMPILED = {
    "head 64": Call((32, 8, 64)),
    "head 80, page 8": Call((32, 8, 80), page=8, options=(("window", 100), ("soft_cap", 30.0))),
    "head 96, mha": Call((32, 32, 96)),
    "head 128": Call((32, 8, 128), extras=("sinks",)),
    "head 128, mqa, page 64": Call((64, 1, 128), page=64),
    "head 128, f16": Call((32, 8, 128), dtype=jnp.float16),
    "head 192, values of 128": Call((32, 8, 192), value_dim=128),
    "head 256": Call((16, 8, 256), page=32),
    "int8": Call((32, 8, 128), kv_dtype=jnp.int8),
    "fp8, page 64": Call((32, 8, 128), kv_dtype=FP8, page=64),
    "int8, head 256": Call((16, 8, 256), kv_dtype=jnp.int8),
    # Pools that are larger than the queries, which the kernel wants in tiles.
    "latent": Call((128, 1, 576), value_dim=512, in_keys=True, pages=2**15),
    "latent, fp8": Call((128, 1, 576), value_dim=512, in_keys=True, kv_dtype=FP8, pages=2**16),
    "a pool of 2^33 elements": Call((32, 8, 128), pages=2**19),
}


SPILLS = {"head 256": 400, "int8": 16, "int8, head 256": 300, "latent": 3000, "latent, fp8": 1500}
"""Bytes that the kernels together may spill: with jax 0.11.2 and ptxas 13.5 they spill 272, 4,
220, 2,616 and 1,204. Heads of 576 have more addresses of queries than registers to hold them."""
SPILLED = r"stack frame, (\d+) bytes spill stores"


@needs_gpu_compiler
@pytest.mark.parametrize("name", COMPILED)
def test_the_kernels_compile(name, tmp_path, monkeypatch):
    """All in one program: no copy of the pool, and with ptxas: enough registers."""
    for what, value in {"TO": str(tmp_path), "PTX": "1", "PTXAS": "1"}.items():
        monkeypatch.setenv(f"MOSAIC_GPU_DUMP_{what}", value)
    call = COMPILED[name]._replace(implementation="mosaic")
    program = call.compile(target("H200"))
    assert "mosaic_gpu" in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < call.pool_bytes / 2
    if ptxas() is None:
        pytest.skip("ptxas is not installed (pip: nvidia-cuda-nvcc)")
    said = [path.read_text() for path in sorted(tmp_path.glob("*.ptxas"))]
    assert len(said) == 3, "kernels for decode, the merge of its splits, and prefill"
    spilled = [int(count) for text in said for count in re.findall(SPILLED, text)]
    assert len(spilled) == len(said)
    assert sum(spilled) <= SPILLS.get(name, 0), said


@needs_gpu_compiler
@pytest.mark.parametrize(
    ("model", "kv_dtype"),
    [
        ("grouped", DataType.BFLOAT16),
        ("grouped", DataType.INT8),
        ("latent", DataType.BFLOAT16),
    ],
)
def test_a_whole_step_compiles_and_copies_no_cache(model, kv_dtype):
    function, arguments = step_of(model, StepShape(512, 16), kv_dtype, attention="mosaic")
    program = target("H200").compile(function, *arguments, donate=(1, 3))
    check_step(program, arguments[1], "mosaic_gpu")
