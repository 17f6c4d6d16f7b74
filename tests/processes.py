"""What a process that a test starts runs under, where it has to be another than the test's own."""

from __future__ import annotations

import os


def with_devices(count: int) -> dict[str, str]:
    """An environment where the CPU counts as `count` devices, and programs compile as in tests.

    A process has to be told both before it starts jax.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}",
    }
