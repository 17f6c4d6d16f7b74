"""Compiling for an NVIDIA GPU on a machine that has none.

With the packages jax-cuda13-plugin and jax-cuda13-pjrt (`pip install --no-deps`, of jax's own
version) XLA compiles for a GPU that is described to it. The programs cannot run here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest


class GPU(NamedTuple):
    """The figures of a GPU that XLA's compiler reads."""

    name: str
    capability: tuple[int, int]
    cores: int
    shared_block: int
    """Bytes of shared memory that one block can have."""
    shared_core: int
    threads_core: int
    l2_bytes: int
    bandwidth: int
    """Bytes per second."""
    memory_bytes: int
    clock_ghz: float
    features: str = ""

    @property
    def description(self) -> str:
        """The textproto of XLA's `GpuTargetConfigProto`."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared_core}
  threads_per_core_limit: {self.threads_core}
  core_count: {self.cores}
  fpus_per_core: {64 if self.capability == (8, 0) else 128}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {self.bandwidth}
  l2_cache_size: {self.l2_bytes}
  clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory_bytes}
  shared_memory_per_block_optin: {self.shared_block}
  cuda_compute_capability {{ major: {major} minor: {minor} {self.features} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{self.name}"
"""


GPUS = {
    "H200": GPU(
        name="NVIDIA H200",
        capability=(9, 0),
        cores=132,
        shared_block=232448,
        shared_core=233472,
        threads_core=2048,
        l2_bytes=52428800,
        bandwidth=4800000000000,
        memory_bytes=151397597184,
        clock_ghz=1.98,
        features="feature_extension: ACCELERATED_FEATURES",
    ),
    "A100": GPU(
        name="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        cores=108,
        shared_block=166912,
        shared_core=167936,
        threads_core=2048,
        l2_bytes=41943040,
        bandwidth=2039000000000,
        memory_bytes=85899345920,
        clock_ghz=1.41,
    ),
    "RTX 4090": GPU(
        name="NVIDIA GeForce RTX 4090",
        capability=(8, 9),
        cores=128,
        shared_block=101376,
        shared_core=102400,
        threads_core=1536,
        l2_bytes=75497472,
        bandwidth=1008000000000,
        memory_bytes=25757220864,
        clock_ghz=2.52,
    ),
}


def why_not() -> str | None:
    """What is missing for compiling for a GPU here; None where nothing is."""
    if jax.__version_info__ < (0, 10):
        return f"jax {jax.__version__} is older than the kernels; they need 0.10"
    for module, package in (
        ("jax_plugins.xla_cuda13", "jax-cuda13-pjrt"),
        ("jax_cuda13_plugin", "jax-cuda13-plugin"),
    ):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"{package} is not installed (pip install --no-deps {package})"
    return None


needs_gpu_compiler = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def ptxas() -> Path | None:
    """The assembler that tells registers and spills (package nvidia-cuda-nvcc)."""
    site = Path(sysconfig.get_paths()["purelib"])
    return next(iter(sorted(site.glob("nvidia/*/bin/ptxas"))), None)


class Target:
    """A GPU to compile for."""

    def __init__(self, gpu: GPU):
        from jax.experimental import topologies
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        topology = topologies.get_topology_desc(
            platform="cuda", target_config=gpu.description, topology="1x1x1"
        )
        self._mesh = Mesh(np.array(topology.devices[:1]), ("x",))
        self._sharding = NamedSharding(self._mesh, PartitionSpec())

    def struct(self, tree: Any) -> Any:
        """Arrays, or their shapes, as arguments on the GPU."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding), tree
        )

    def compile(
        self, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()
    ) -> Any:
        """A program for the GPU, which tells of its memory and cannot run."""
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
            traced = jax.jit(function, donate_argnums=donate).trace(*self.struct(args))
            return traced.lower(lowering_platforms=("cuda",)).compile()


@cache
def target(name: str) -> Target:
    """The GPU of a name in `GPUS`."""
    return Target(GPUS[name])


class Kernel(NamedTuple):
    """What the assembler says of a kernel."""

    program: str
    """The name of the jitted function that it belongs to."""
    name: str
    registers: int
    spilled: int
    """Bytes."""


def assembled(dump: Path, gpu: GPU, prefix: str) -> list[Kernel]:
    """Registers and spills of the kernels of such names whose PTX lies in a folder."""
    assembler = ptxas()
    assert assembler is not None
    arch = f"sm_{gpu.capability[0]}{gpu.capability[1]}" + ("a" if gpu.features else "")
    found = []
    for path in sorted(dump.glob("*.ptx")):
        if prefix not in path.read_text():
            continue
        command = [str(assembler), "-v", f"-arch={arch}", str(path), "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        for name, spills, registers in re.findall(
            r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", said, re.S
        ):
            program = path.name.split(".jit_")[1].split(".")[0]
            found.append(Kernel(program, name, int(registers), int(spills)))
    return found


def run_dumping(script: str, dump: Path) -> None:
    """Run Python in a process of its own that leaves the PTX of what it compiles in a folder."""
    flags = f"--xla_dump_to={dump} --xla_dump_emitter_re=ptx --xla_gpu_dump_llvmir"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=root, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-4000:]


ONE_PROCESS = """
import warnings
warnings.simplefilter("ignore")
from {module} import CALLS
from tests.kernels.gpu_target import GPUS, Target
target = Target(GPUS["H200"])
for index, call in enumerate(CALLS.values()):
    call.compile(target, f"call{{index}}")
"""


def assembled_calls(module: str, dump: Path, prefix: str) -> list[Kernel]:
    """Registers and spills for an H200 of the kernels of a test module's `CALLS`, whose programs
    are named call0, call1, ..."""
    run_dumping(ONE_PROCESS.format(module=module), dump)
    return assembled(dump, GPUS["H200"], prefix)
