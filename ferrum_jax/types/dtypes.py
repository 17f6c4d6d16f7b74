"""Element types by the names that checkpoints and users write."""

from __future__ import annotations

from enum import StrEnum

from ferrum_jax.types.errors import ConfigError

SHORT_NAMES = {
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "half": "float16",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
}


class DataType(StrEnum):
    """The dtype of weights, activations or cache; equal to jax's name for it."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    FLOAT8_E4M3FN = "float8_e4m3fn"

    @classmethod
    def parse(cls, name: str) -> DataType:
        """A dtype of weights from its name; `f32`, `bf16`, `f16` and `half` are understood.

        Raises:
            ConfigError: the name is not a dtype that weights can have.
        """
        dtype = _named(name)
        if dtype is not None and not dtype.quantised:
            return dtype
        what = "not known" if dtype is None else "for EngineConfig.kv_dtype only"
        choices = ", ".join(each for each in cls if not each.quantised)
        raise ConfigError(f"dtype {name!r} is {what}; choose one of {choices}")

    @classmethod
    def parse_cache(cls, name: str) -> DataType:
        """A dtype of a cache from its name; beside `parse`'s, `fp8` and `fp8_e4m3` are understood.

        Raises:
            ConfigError: the name is not a dtype that a cache can have.
        """
        dtype = _named(name)
        if dtype is not None:
            return dtype
        choices = ", ".join(["auto", *cls])
        raise ConfigError(f"EngineConfig.kv_dtype {name!r} is not known; choose one of {choices}")

    @property
    def itemsize(self) -> int:
        """Bytes per element, scales not counted."""
        return 4 if self is DataType.FLOAT32 else 1 if self.quantised else 2

    @property
    def quantised(self) -> bool:
        """Whether values of this dtype mean something only together with scales."""
        return self in (DataType.INT8, DataType.FLOAT8_E4M3FN)

    @property
    def stored(self) -> str:
        """jax's name for the arrays that hold it in a cache: float8 and bfloat16 lie as their bits.

        XLA's CPU backend moves an element of these by widening the array that it lies in, which
        for a page pool would be a second cache; integers it moves as they are.
        """
        bits = {DataType.FLOAT8_E4M3FN: "uint8", DataType.BFLOAT16: "uint16"}
        return bits.get(self, self.value)


def _named(name: str) -> DataType | None:
    full = SHORT_NAMES.get(str(name), str(name))
    return next((each for each in DataType if each == full), None)
