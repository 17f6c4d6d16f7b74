"""Checkpoints to open: valid ones by the safetensors library, broken ones byte by byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ferrum_jax.types.errors import WeightError

Tensors = Mapping[str, np.ndarray]


@pytest.fixture
def write_raw(tmp_path: Path) -> Callable[..., Path]:
    """Write a file from a header (an object or its bytes) and data; `length` may lie."""

    def write(header: Any, data: bytes = b"", length: int | None = None) -> Path:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / "raw.safetensors"
        prefix = (len(raw) if length is None else length).to_bytes(8, "little")
        path.write_bytes(prefix + raw + data)
        return path

    return write


@pytest.fixture
def write_shards(tmp_path: Path) -> Callable[..., Path]:
    """Write shards and their index; `weight_map` replaces the true map."""

    def write(
        shards: Mapping[str, Tensors],
        weight_map: Any = None,
        directory: Path | None = None,
    ) -> Path:
        directory = directory or tmp_path / "checkpoint"
        directory.mkdir(parents=True, exist_ok=True)
        true_map = {name: file for file, tensors in shards.items() for name in tensors}
        for file, tensors in shards.items():
            save_file(dict(tensors), directory / file)
        index = {"metadata": {}, "weight_map": true_map if weight_map is None else weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        return directory

    return write


@pytest.fixture
def refusal() -> Callable[[Callable[[], object]], str]:
    """The message of the WeightError that a call raises; fails if it blocks or succeeds."""

    def run(call: Callable[[], object]) -> str:
        messages: list[str] = []

        def collect() -> None:
            try:
                call()
            except WeightError as error:
                messages.append(str(error))

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        thread.join(10)
        assert messages, "it blocked, or was accepted"
        return messages[0]

    return run
