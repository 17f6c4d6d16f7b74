"""Element types by the names that checkpoints and users write."""

from __future__ import annotations

from enum import StrEnum

from ferrum_jax.types.errors import ConfigError


class DataType(StrEnum):
    """The dtype of weights, activations or cache; equal to jax's name for it."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @classmethod
    def parse(cls, name: str) -> DataType:
        """A `DataType` from its name; short names (`f32`, `bf16`, `f16`, `half`) are understood.

        Raises:
            ConfigError: the name is not a known dtype.
        """
        short = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "half": "float16"}
        try:
            return cls(short.get(str(name), str(name)))
        except ValueError:
            raise ConfigError(
                f"dtype {name!r} is not known; choose one of {', '.join(cls)}"
            ) from None

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return 4 if self is DataType.FLOAT32 else 2
