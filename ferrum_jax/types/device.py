"""The device that a model runs on."""

from __future__ import annotations

from dataclasses import dataclass

from ferrum_jax.types.dtypes import DataType


@dataclass(frozen=True)
class DeviceInfo:
    """A device as `runtime.devices` found it."""

    platform: str
    """`cpu`, `gpu`, `metal`, ..."""
    kind: str
    """The maker's name for it."""
    count: int
    memory_bytes: int | None
    """Total memory; None where the platform does not tell."""
    free_bytes: int | None
    """Memory free when asked; None where the platform does not tell."""
    compute_capability: float | None = None
    """Of an NVIDIA GPU, as 9.0; None of anything else."""
    multiplies: tuple[DataType, ...] = ()
    """Types narrower than float32 that a CPU has matrix products of, and jax has to be asked for:
    bfloat16 and int8."""
    tiles: bool = False
    """Whether it has them of tiles (AMX), not of vectors (AVX-512)."""

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.1f} GiB"
        return f"{self.platform}: {self.count} x {self.kind}{memory}"
