"""The header of a .safetensors file, checked in full before any tensor is read.

Format: 8 bytes, little endian, the header's length N; N bytes of JSON that map each tensor's name
to its dtype, shape and [begin, end) in the data; then the data, which the tensors tile exactly.
Source: the format section of the safetensors project's README.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ferrum_jax.models.weights.files import MAX_JSON_BYTES, parse_json_object

LENGTH_BYTES = 8
# numpy before 2.0 holds no more than 32 axes.
MAX_AXES = 32

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("<u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "I8": np.dtype("<i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file; `begin` and `end` count bytes from the start of the data."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def header_length(first_bytes: bytes, file_bytes: int) -> int:
    """The header's length, from the first 8 bytes; raises ValueError if it cannot be true."""
    if file_bytes < LENGTH_BYTES:
        raise ValueError(f"it has {file_bytes} bytes, and a header alone takes {LENGTH_BYTES}")
    length = int.from_bytes(first_bytes, "little")
    if length > MAX_JSON_BYTES:
        raise ValueError(f"its header claims {length:,} bytes; the limit is {MAX_JSON_BYTES:,}")
    if length > file_bytes - LENGTH_BYTES:
        raise ValueError(f"its header claims {length:,} bytes; the file has {file_bytes:,} in all")
    return length


def parse_header(raw: bytes, data_bytes: int) -> dict[str, TensorEntry]:
    """The tensors of a file in the order of their data; raises ValueError with the reason.

    `raw` is the JSON text and `data_bytes` the number of bytes that follow it in the file.
    """
    if not raw.startswith(b"{"):
        raise ValueError("its header does not start with '{'")
    try:
        header = parse_json_object(raw)
    except ValueError as error:
        raise ValueError(f"its header is refused: {error}") from error
    _check_metadata(header.pop("__metadata__", {}))
    entries = {name: _entry(name, fields) for name, fields in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_tiling(ordered, data_bytes)
    return ordered


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its __metadata__ is not a map from strings to strings")


def _entry(name: str, fields: object) -> TensorEntry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} needs exactly the keys dtype, shape and data_offsets")
    dtype = _dtype(name, fields["dtype"])
    shape = _integers(name, "shape", fields["shape"])
    offsets = _integers(name, "data_offsets", fields["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {name!r} has data_offsets {offsets}, not a begin and an end")
    _check_size(name, dtype, shape, offsets[1] - offsets[0])
    return TensorEntry(dtype, shape, *offsets)


def _dtype(name: str, value: object) -> np.dtype[Any]:
    if not isinstance(value, str) or value not in DTYPES:
        raise ValueError(f"tensor {name!r} has dtype {value!r}, which is none of {list(DTYPES)}")
    return DTYPES[value]


def _integers(name: str, key: str, values: object) -> tuple[int, ...]:
    # `type(v) is int` and not isinstance: JSON's true and false are ints to Python.
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError(f"tensor {name!r} has a {key} that is not a list of integers from 0 up")
    return tuple(values)


def _check_size(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], stored: int) -> None:
    # numpy refuses axes whose product overflows even where another axis is 0.
    span = math.prod(axis for axis in shape if axis) * dtype.itemsize
    if len(shape) > MAX_AXES or span > np.iinfo(np.int64).max:
        raise ValueError(f"tensor {name!r} has a shape of {len(shape)} axes that is too large")
    needed = math.prod(shape) * dtype.itemsize
    if needed != stored:
        raise ValueError(
            f"tensor {name!r}: {dtype.name}{list(shape)} takes {needed:,} bytes, "
            f"its data_offsets span {stored:,}"
        )


def _check_tiling(ordered: dict[str, TensorEntry], data_bytes: int) -> None:
    position = 0
    for name, entry in ordered.items():
        if entry.begin != position:
            fault = "overlaps the tensor before it" if entry.begin < position else "follows a hole"
            raise ValueError(f"tensor {name!r} at byte {entry.begin:,} {fault} ({position:,})")
        if entry.end > data_bytes:
            raise ValueError(
                f"tensor {name!r} ends at byte {entry.end:,} of {data_bytes:,}: the file is cut"
            )
        position = entry.end
    if position != data_bytes:
        raise ValueError(f"{data_bytes - position:,} bytes trail the last tensor")
