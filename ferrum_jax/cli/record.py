"""What every JSON answer carries, so that a run can be repeated."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import sys
from importlib.metadata import version
from typing import Any

import ferrum_jax
from ferrum_jax.models.params import flatten_shapes
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.types import ModelConfig


def environment() -> dict[str, Any]:
    """Versions, device and command line."""
    return {
        "versions": {
            "ferrum_jax": ferrum_jax.__version__,
            "jax": version("jax"),
            "jaxlib": version("jaxlib"),
            "python": platform.python_version(),
        },
        "device": dataclasses.asdict(device_info()),
        "command": sys.argv,
    }


def num_parameters(config: ModelConfig) -> int:
    """Parameters that a config asks for."""
    return sum(math.prod(shape) for shape in flatten_shapes(config).values())


def to_json(value: Any) -> str:
    """Strict JSON: not-a-number and infinity become null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def bytes_text(count: float) -> str:
    """`438.1 MB`, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
