"""Named tensors on disk, as the loader reads them."""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class WeightSource(Protocol):
    """The tensors of one checkpoint, whatever the number of files that hold them.

    Names, shapes and dtypes come from the files' headers; `read` is what touches the data.
    An unknown name, or a source that was closed, raises WeightError.
    """

    @property
    def location(self) -> str:
        """The file or directory, for error messages and run records."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        ...

    @property
    def max_file_bytes(self) -> int:
        """Bytes of the largest file."""
        ...

    def names(self) -> tuple[str, ...]:
        """Every tensor, in the order in which it lies on disk: read in this order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> np.dtype[Any]: ...

    def read(self, name: str) -> NDArray[Any]:
        """A read-only view of the file, not a copy; its pages leave memory when it is dropped."""
        ...

    def close(self) -> None:
        """Refuse further reads; views that were handed out stay valid."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...
