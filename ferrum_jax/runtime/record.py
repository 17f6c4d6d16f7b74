"""Runs are records: what a result file says of the run that made it, and how it is written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any, TypeVar

import jax
import numpy as np

from ferrum_jax.models.shapes import path_name
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.types import RequestError

CHECKOUT = Path(__file__).parent.parent.parent
"""The folder that holds the package: a git checkout, or where packages are installed."""
T = TypeVar("T")
PACKAGES = ("ferrum_jax", "jax", "jaxlib", "flax", "numpy")
GIT_SECONDS = 10.0


def environment(command: str | Sequence[str] | None = None) -> dict[str, Any]:
    """Versions, device, machine, command and commit: what is needed to repeat a run.

    Args:
        command: what made the record, a text or its words; None: `sys.argv`.

    Returns:
        `versions` (of ferrum_jax, jax, jaxlib, flax, numpy and python), `device` (the fields of
        `DeviceInfo`), `machine`, `command`, `commit` (None where the package is not a git checkout)
        and `dirty`: whether files differed from the commit, new files counted.

    Raises:
        DeviceError: jax finds no usable device.
    """
    words = sys.argv if command is None else command
    commit, dirty = _commit()
    return {
        "versions": {
            **{name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
        },
        "device": _plain(device_info()),
        "machine": {"architecture": platform.machine(), "cpu_count": os.cpu_count()},
        "command": words if isinstance(words, str) else shlex.join(words),
        "commit": commit,
        "dirty": dirty,
    }


def weights_digest(params: Any) -> str:
    """sha256 of a pytree of arrays, in hex: over names, dtypes, shapes and bytes of all leaves.

    The order of the leaves does not matter, nor the device, the process or the version of jax.
    Every leaf is copied to the host, one at a time, and read once: 0.5 s a GB on one core of an
    AMD EPYC.
    """
    leaves = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
    digest = hashlib.sha256()
    for name in sorted(leaves):
        values = np.ascontiguousarray(np.asarray(leaves[name]))
        shape = ",".join(map(str, np.shape(leaves[name])))
        digest.update(f"{name} {values.dtype.name} [{shape}]\n".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def to_json(value: Any) -> str:
    """Strict JSON of plain data, dataclasses, enums, paths and arrays; nan and infinity are null.

    Raises:
        RequestError: two keys of a mapping have the same text, or a value is none of these.
    """
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `to_json(value)` so that the file is, at any moment, the old one or the new one.

    What is no ordinary file, `/dev/stdout` say, is written as it stands.

    Raises:
        RequestError: as `to_json`.
        OSError: the folder is missing or cannot be written.
    """
    target, text = Path(path).resolve(), to_json(value) + "\n"
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8")
        return
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def read_record(
    path: str | os.PathLike[str], form: str, revive: Callable[[dict[str, Any]], T], refusal: str
) -> T:
    """What `revive` makes of the JSON object of a file whose `format` is `form`.

    Args:
        refusal: says what the file is not and which one to name; `{}` stands for the reason.

    Raises:
        RequestError: the file holds something else, with `refusal` behind its path.
        OSError: it cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
        if found.get("format") != form:
            raise ValueError(f"its format is {found.get('format')!r}, not {form!r}")
        return revive(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"({type(error).__name__}: {error})"
        raise RequestError(f"{os.fspath(path)} {refusal.format(reason)}") from error


def _plain(value: Any) -> Any:
    """The value as dicts, lists, texts, finite numbers, booleans and None."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return _plain_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, PurePath):
        return str(value)
    raise RequestError(
        f"a record cannot hold {value!r} ({type(value).__name__}); give plain data, dataclasses, "
        "enums, paths or arrays of numbers"
    )


def _plain_dict(value: dict[Any, Any]) -> dict[str, Any]:
    plain = {str(key): _plain(item) for key, item in value.items()}
    if len(plain) < len(value):
        raise RequestError(
            f"two keys of a record have the same text, among {', '.join(map(repr, value))}; "
            "rename one"
        )
    return plain


def _version(package: str) -> str:
    """`0+unknown` for a package that is used without being installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "0+unknown"


def _commit() -> tuple[str | None, bool | None]:
    """The checkout's commit and whether its files differ from it; None where there is none."""
    if not (CHECKOUT / ".git").exists():
        return None, None
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return commit or None, None if changes is None else bool(changes)


def _git(*words: str) -> str | None:
    """What git prints; None where it is missing, refuses or takes too long."""
    command = ("git", "--no-optional-locks", "-C", str(CHECKOUT), *words)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
