"""Which device this is, and how much of it is free. Nothing else in ferrum_jax asks."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax

from ferrum_jax.types import DataType, DeviceError, DeviceInfo

MEMINFO, CPUINFO = Path("/proc/meminfo"), Path("/proc/cpuinfo")
OF_TILES = {"amx_bf16": DataType.BFLOAT16, "amx_int8": DataType.INT8}
OF_VECTORS = {"avx512_bf16": DataType.BFLOAT16, "avx512_vnni": DataType.INT8}
"""Flags of x86 processors that have products of a type."""


def device_info() -> DeviceInfo:
    """The default device, started if it was not.

    Raises:
        DeviceError: jax finds no usable device.
    """
    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        raise DeviceError(
            f"jax could not start a device: {error}; check the installation with "
            "`python -c 'import jax; print(jax.devices())'`, or set JAX_PLATFORMS=cpu"
        ) from error
    device = devices[0]
    total, free = _memory(device)
    flags = _cpu_flags() if device.platform == "cpu" else set()
    kinds = {kind for flag, kind in (OF_TILES | OF_VECTORS).items() if flag in flags}
    return DeviceInfo(
        platform="gpu" if device.platform in ("cuda", "rocm") else device.platform.lower(),
        kind=device.device_kind,
        count=len(devices),
        memory_bytes=total,
        free_bytes=free,
        compute_capability=_compute_capability(device),
        multiplies=tuple(sorted(kinds)),
        tiles=not flags.isdisjoint(OF_TILES),
    )


def mesh_devices(count: int, first: int = 0) -> list[Any]:
    """`count` devices from the one at `first` on, those of other processes among them.

    Raises:
        DeviceError: there are fewer.
    """
    devices, stop = jax.devices(), first + count
    if len(devices) < stop:
        behind = f" behind the first {first}" if first else ""
        raise DeviceError(
            f"EngineConfig.mesh = ({count},) asks for {count} devices{behind} and jax has "
            f"{len(devices)} ({devices[0].platform}); a CPU counts as several with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={stop} set before jax starts"
        )
    return devices[first:stop]


@cache
def decode_compiler_options(platform: str) -> dict[str, Any]:
    """Options for compiling a step of few rows, where this jaxlib knows them.

    On a CPU: products by XLA's own kernel library (`ynn`), and only those; what jaxlib chooses by
    itself from 0.10 on has sums by it too. For 100 million parameters that choice took 1.02 times
    as long (batch 1 and 8), no use of the library 0.98 and 1.33. In steps of many rows jaxlib's
    choice stands: the products alone took 1.00 to 1.04 times as long there, no use of it 1.28
    (prompts of 128 and 512 tokens, jax 0.10.2, two AVX2 cores).
    """
    options: dict[str, Any] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    }
    if platform != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def peak_memory() -> tuple[int | None, str]:
    """The most bytes in use so far, and whose: the `device`'s, or the `process`'s on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    try:
        import resource
    except ImportError:  # Windows
        return None, "process"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024), "process"


def _cpu_flags() -> set[str]:
    """What the processor can do; nothing where this jax would not take its narrow products."""
    if jax.__version_info__ < (0, 10) or not CPUINFO.exists():
        return set()
    lines = CPUINFO.read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _compute_capability(device: Any) -> float | None:
    """An NVIDIA GPU's; AMD's have a name in its place."""
    try:
        return float(device.compute_capability)
    except (AttributeError, TypeError, ValueError):
        return None


def _memory(device: Any) -> tuple[int | None, int | None]:
    """Total and free bytes, where the platform or the operating system tells."""
    if device.platform == "cpu":
        return _host_memory()
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return limit, None if limit is None else limit - stats.get("bytes_in_use", 0)


def _host_memory() -> tuple[int | None, int | None]:
    if not MEMINFO.exists():
        return None, None
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    total, free = kib.get("MemTotal"), kib.get("MemAvailable")
    return (total and total * 1024), (free and free * 1024)
