"""Opening the files of a checkpoint directory without trusting them."""

from __future__ import annotations

import difflib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from ferrum_jax.types.errors import ConfigError, WeightError

# The limit of the safetensors format for its header; no JSON file of a checkpoint comes near it.
MAX_JSON_BYTES = 100_000_000


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; raises OSError for whatever is not a regular file.

    A FIFO is opened without waiting for a writer, so a hostile directory cannot block the load.
    """
    file = open(path, "rb", opener=_open_without_blocking)  # noqa: SIM115 (the caller closes it)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError("it is not a regular file but a pipe or a device")


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8; raises ValueError with the reason for anything else.

    Duplicate keys are refused: which of the two a reader keeps is a matter of luck.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a JSON {type(value).__name__}, not an object")
    return value


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises OSError or ValueError with the reason."""
    with open_regular(path) as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {MAX_JSON_BYTES:,} bytes")
    return parse_json_object(raw)


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """A checkpoint's JSON file, such as `config.json`, as a dict.

    Raises ConfigError when the file is missing, unreadable, not JSON, or not a JSON object.
    """
    path = Path(directory) / name
    try:
        return load_json(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; a checkpoint directory needs its {name}: "
            "point to the directory that holds it, or download it again"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; download it again or mend it") from error


def resolve_inside(directory: Path, name: str) -> Path:
    """The real path of a checkpoint's file; raises WeightError for a link that leads outside.

    The links of a Hugging Face cache lead from `snapshots/<commit>/` to `blobs/` of the same
    repository: those are followed. A file that is missing is for the caller to find.
    """
    root = Path(os.path.realpath(directory))
    path = Path(os.path.realpath(root / name))
    cache_blobs = Path(os.path.realpath(root.parent.parent / "blobs"))
    from_cache = root.parent.name == "snapshots" and path.parent == cache_blobs
    if from_cache or path.is_relative_to(root):
        return path
    raise WeightError(
        f"{directory / name} is a link to {path}, outside of the checkpoint; "
        "copy the file into the directory if you trust it"
    )


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Names for an error message: sorted, quoted, the first few and how many more."""
    ordered = sorted(names)
    shown = ", ".join(repr(name) for name in ordered[:limit])
    more = len(ordered) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def unknown_tensor(location: str, name: str, names: Iterable[str]) -> WeightError:
    """The error for a name that a checkpoint does not have, with the names closest to it."""
    close = difflib.get_close_matches(name, names, n=3)
    return WeightError(f"{location} holds no tensor {name!r}; the closest names: {close}")


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result
