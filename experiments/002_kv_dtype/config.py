"""What is compared, on which text, as data."""

from dataclasses import dataclass

from ferrum_jax.types import DataType


@dataclass(frozen=True)
class Comparison:
    """Caches of several dtypes under one model; the first is what the others are compared with."""

    model: str = "demo"
    weights_dtype: str = "float32"
    kv_dtypes: tuple[DataType, ...] = (
        DataType.FLOAT32,
        DataType.BFLOAT16,
        DataType.FLOAT16,
        DataType.INT8,
        DataType.FLOAT8_E4M3FN,
    )
    length: int = 512
    """Tokens of each document that go in, BOS counted: the model's whole context."""
    page_size: int = 16
    resamples: int = 2000
    """Bootstrap samples of the documents, for the standard errors."""
    seed: int = 0
    """Of the bootstrap; nothing else is drawn."""
