"""The Mosaic kernels, for Hopper GPUs: interpreted with their races looked for, and compiled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ferrum_jax.types import DataType, StepShape
from pallas_kernels import checks
from tests.kernels.gpu_target import GPUS, Target, needs_gpu_compiler, ptxas
from tests.kernels.test_gpu_compile import Call, step_of
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
        command, env=os.environ | THREADS, cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stdout[-6000:]
    (passed,) = re.findall(r"(\d+) passed", ended.stdout)
    assert int(passed) > 15, ended.stdout


COMPILED = {
    "head 64": Call((32, 8, 64)),
    "head 80, page 8": Call((32, 8, 80), page=8, options=(("window", 100), ("soft_cap", 30.0))),
    "head 96, mha": Call((32, 32, 96)),
    "head 128": Call((32, 8, 128), extras=("sinks",)),
    "head 128, mqa, page 64": Call((64, 1, 128), page=64),
    "head 128, f16": Call((32, 8, 128), dtype=jnp.float16),
    "head 192, values of 128": Call((32, 8, 192), value_dim=128),
    "head 256": Call((16, 8, 256), page=32),
    "a pool of 2^33 elements": Call((32, 8, 128), pages=2**19),
}


SPILLS = {"head 256": 400}
"""Bytes that one of the two kernels may spill; the prefill's do 348 (jax 0.11.2, ptxas 13.5)."""


@cache
def h200() -> Target:
    return Target(GPUS["H200"])


def compiled(call: Call, target: Target, *, decodes: bool) -> Any:
    sizes = {"tokens": 256, "rows": 256} if decodes else {}
    call = call._replace(implementation="mosaic", **sizes)
    return call.compile(target), call


@needs_gpu_compiler
@pytest.mark.parametrize("name", COMPILED)
def test_the_kernels_compile_and_copy_no_pool(name):
    """Decodes, and the prefill kernel beside them."""
    for decodes in (True, False):
        program, call = compiled(COMPILED[name], h200(), decodes=decodes)
        assert program.as_text().count("mosaic_gpu_v2") >= 1
        assert program.memory_analysis().temp_size_in_bytes < max(call.pool_bytes, 2**30) / 2


ONE_PROCESS = """
import warnings
warnings.simplefilter("ignore")
from tests.kernels.test_mosaic import COMPILED, compiled, h200
for call in COMPILED.values():
    compiled(call, h200(), decodes=False)
"""


@needs_gpu_compiler
@pytest.mark.skipif(ptxas() is None, reason="ptxas is not installed (pip: nvidia-cuda-nvcc)")
def test_registers_suffice(tmp_path):
    dumps = {"TO": str(tmp_path), "PTX": "1", "PTXAS": "1"}
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        **{f"MOSAIC_GPU_DUMP_{name}": value for name, value in dumps.items()},
    }
    ended = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    said = [path.read_text() for path in sorted(tmp_path.glob("*.ptxas"))]
    assert len(said) == 2 * len(COMPILED), "a decode and a prefill kernel for each"
    spilled = [max(map(int, re.findall(r"(\d+) bytes spill stores", text))) for text in said]
    allowed = [SPILLS.get(name, 0) for name in COMPILED]
    assert sum(spilled) <= sum(allowed), (spilled, said)
    assert sum(count > 0 for count in spilled) <= sum(count > 0 for count in allowed), spilled


@needs_gpu_compiler
@pytest.mark.parametrize("tokens", [16, 512])
def test_a_whole_step_compiles_and_copies_no_cache(tokens):
    shape = StepShape(tokens, 16)
    function, arguments = step_of("grouped", shape, DataType.BFLOAT16, attention="mosaic")
    program = h200().compile(function, *arguments, donate=(1, 3))
    memory = program.memory_analysis()
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments[1].layers)]
    assert "mosaic_gpu" in program.as_text()
    assert memory.alias_size_in_bytes >= sum(sizes)
    assert memory.temp_size_in_bytes < max(sizes) / 2
