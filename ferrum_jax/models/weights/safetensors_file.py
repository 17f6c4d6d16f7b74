"""One .safetensors file as a memory map."""

from __future__ import annotations

import mmap
import weakref
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ferrum_jax.models.weights.files import open_regular, unknown_tensor
from ferrum_jax.models.weights.safetensors_header import (
    LENGTH_BYTES,
    TensorEntry,
    header_length,
    parse_header,
)
from ferrum_jax.types.errors import WeightError


class SafetensorsFile:
    """A `WeightSource` over one file; opening it reads and checks the header only.

    Raises WeightError, naming the file and the tensor, for anything that the format forbids.
    """

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        try:
            self._map: mmap.mmap | None = _map_file(path)
            length = header_length(self._map[:LENGTH_BYTES], len(self._map))
            self._data_start = LENGTH_BYTES + length
            self._entries = parse_header(
                self._map[LENGTH_BYTES : self._data_start], len(self._map) - self._data_start
            )
        except (OSError, ValueError) as error:
            raise WeightError(
                f"{path}: {error}. Download the file again; if the error stays, "
                "what wrote it does not follow the safetensors format"
            ) from error
        self.max_file_bytes = len(self._map)
        self.nbytes = self.max_file_bytes - self._data_start
        _drop_pages(self._map, 0, self._data_start)

    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._entry(name).dtype

    def read(self, name: str) -> NDArray[Any]:
        """A read-only view into the map; when it and all views of it are gone, so are its pages.

        One map serves the whole file, since each map costs a file descriptor. As with any map,
        the operating system ends a process that reads pages of a file cut short since.
        """
        entry = self._entry(name)
        if self._map is None:
            raise WeightError(f"{self.location} is closed; read {name!r} before closing it")
        begin, end = self._data_start + entry.begin, self._data_start + entry.end
        view = np.ndarray(entry.shape, entry.dtype, buffer=self._map, offset=begin)
        # A view of this view keeps it alive as its base, so the pages outlast every reader.
        weakref.finalize(view, _drop_pages, self._map, begin, end).atexit = False
        _check_booleans(self.location, name, view)
        return view

    def close(self) -> None:
        """Refuse further reads; the map itself goes with the last view of it."""
        self._map = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _entry(self, name: str) -> TensorEntry:
        if name in self._entries:
            return self._entries[name]
        raise unknown_tensor(self.location, name, self._entries)


def _map_file(path: Path) -> mmap.mmap:
    with open_regular(path) as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ValueError("it is empty") from error


def _drop_pages(mapping: mmap.mmap, begin: int, end: int) -> None:
    """Give the pages of a byte range back; a page that is still in use returns from the file."""
    if begin < end and hasattr(mapping, "madvise"):
        begin -= begin % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _check_booleans(location: str, name: str, view: NDArray[Any]) -> None:
    # A bool that is neither 0 nor 1 has no defined meaning in numpy.
    if view.dtype == np.bool_ and view.size and view.view(np.uint8).max() > 1:
        raise WeightError(
            f"{location}: tensor {name!r} has booleans other than 0 and 1; download the file again"
        )
