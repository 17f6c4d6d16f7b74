"""What is checked and what is timed, as data; the most telling first, since a run may be cut."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The heads of a model's attention."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    """Where values are the beginning of keys (latent attention): their size."""

    @property
    def value_size(self) -> int:
        return self.value_dim or self.head_dim


LLAMA = Shape("llama-3-8b", 32, 8, 128)
QWEN = Shape("qwen3-0.6b", 16, 8, 128)
GEMMA = Shape("gemma-2-9b", 16, 8, 256)
PHI = Shape("phi-3-mini", 32, 32, 96)
SMALL = Shape("llama-3.2-1b", 32, 8, 64)
LATENT = Shape("deepseek-v3", 128, 1, 576, 512)


@dataclass(frozen=True)
class Check:
    """A call whose numbers are compared with the reference on the same device."""

    shape: Shape
    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"
    page: int = 16
    options: dict[str, Any] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    """`sinks`, `alibi_slopes`: arrays of a number a head."""
    implementation: str = "triton"


CHECKS = (
    Check(LLAMA),
    Check(LLAMA, "float32", "float32"),
    Check(LLAMA, "float16", "float16", page=64),
    Check(LLAMA, kv_dtype="int8"),
    Check(LLAMA, kv_dtype="float8_e4m3fn", page=32),
    Check(LLAMA, "float16", "float8_e4m3fn"),
    Check(LLAMA, options={"window": 100, "soft_cap": 30.0}, extras=("sinks",), page=8),
    Check(LLAMA, options={"chunk": 128}, extras=("alibi_slopes",)),
    Check(SMALL),
    Check(Shape("heads of 80", 8, 4, 80)),
    Check(PHI),
    Check(Shape("heads of 192", 8, 4, 192)),
    Check(GEMMA),
    Check(LATENT),
    Check(LATENT, kv_dtype="float8_e4m3fn"),
    Check(LATENT, "float32", "float32"),
    *(
        Check(shape, page=page, implementation="mosaic")
        for shape, page in ((LLAMA, 16), (SMALL, 8), (PHI, 64), (GEMMA, 32))
    ),
    Check(LLAMA, "float16", "float16", implementation="mosaic"),
    Check(LLAMA, kv_dtype="int8", implementation="mosaic"),
    Check(LLAMA, kv_dtype="float8_e4m3fn", implementation="mosaic"),
    Check(LATENT, implementation="mosaic"),
    Check(LATENT, kv_dtype="float8_e4m3fn", implementation="mosaic"),
    Check(
        LLAMA,
        options={"window": 100, "soft_cap": 30.0},
        extras=("sinks",),
        implementation="mosaic",
    ),
)
ROWS = ((1, 700), (130, 517), (1, 1), (0, 0), (64, 64), (1, 16), (33, 1040), (1, 513))
"""Queries and context of the rows of a check; each also runs with decodes only."""
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Of results whose values are of order 1."""


@dataclass(frozen=True)
class Decode:
    """One token for each of `batch` sequences of `context` tokens."""

    shape: Shape
    batch: int
    context: int
    kv_dtype: str = "bfloat16"
    page: int = 16
    implementation: str = "triton"


@dataclass(frozen=True)
class Prefill:
    """`batch` sequences, each with `queries` new tokens at the end of `context`."""

    shape: Shape
    batch: int
    queries: int
    context: int
    page: int = 16
    implementation: str = "triton"


BARS = (
    Decode(LLAMA, 16, 4096),
    Prefill(LLAMA, 1, 8192, 8192),
    Decode(LLAMA, 16, 4096, "int8"),
    Decode(LLAMA, 16, 4096, "float8_e4m3fn"),
    Decode(LLAMA, 64, 4096),
)
"""What the goals name: 0.85 of the copy bandwidth (0.75 quantised), 0.65 of the matmul rate."""
MOSAIC = (
    *(
        Decode(LLAMA, batch, context, implementation="mosaic")
        for batch, context in ((16, 4096), (64, 4096), (1, 32_768), (256, 1024))
    ),
    Prefill(LLAMA, 1, 8192, 8192, implementation="mosaic"),
    Decode(LLAMA, 16, 4096, "int8", implementation="mosaic"),
    Decode(LLAMA, 16, 4096, "float8_e4m3fn", implementation="mosaic"),
    Decode(LATENT, 64, 4096, implementation="mosaic"),
)
"""Some of them by the kernels for Hopper GPUs."""
GRID = tuple(
    Decode(LLAMA, batch, context)
    for context in (1024, 32_768, 128, 131_072, 4096)
    for batch in (16, 1, 64, 256)
    if batch * context <= 2**20 and (batch, context) not in ((16, 4096), (64, 4096))
)
MORE = (
    Decode(QWEN, 64, 4096),
    Decode(LATENT, 64, 4096),
    Decode(GEMMA, 16, 4096),
    Decode(PHI, 16, 4096),
    Prefill(LLAMA, 4, 2048, 2048),
    Prefill(LLAMA, 1, 512, 32_768),
    Prefill(GEMMA, 1, 8192, 8192),
    Prefill(QWEN, 8, 512, 512),
    Decode(LLAMA, 64, 4096, page=64),
    Decode(LLAMA, 64, 4096, page=8),
)
TUNINGS: tuple[tuple[Any, dict[str, int]], ...] = (
    *(
        (BARS[0], {"num_stages": stages, "num_warps": warps})
        for stages in (3, 4)
        for warps in (2, 4)
    ),
    *((BARS[0], {"split_keys": keys}) for keys in (256, 1024)),
    *((BARS[0], {"decode_block": keys, "num_stages": 3}) for keys in (32, 128)),
    *((BARS[1], {"num_stages": 3, "prefill_block": keys}) for keys in (64, 128)),
    (BARS[1], {"prefill_rows": 64, "num_warps": 4}),
    (BARS[1], {"prefill_rows": 64, "num_warps": 4, "num_stages": 3}),
    (BARS[1], {"prefill_block": 128}),
)
"""Other sizes of tiles for the first two bars."""


@dataclass(frozen=True)
class Plan:
    """The whole experiment."""

    seconds: float = 500.0
    """After which nothing new begins; a run takes at most a minute more."""
    copy_bytes: int = 2**31
    matmul_size: int = 8192
    memory_bytes: int = 12 * 2**30
    """Keys and values that one measurement may take."""
    repeats: int = 5
    long_enough: float = 0.02
    """Seconds of device work of one repeat, so that its start does not count."""
    checks: tuple[Check, ...] = CHECKS
    timed: tuple[Any, ...] = (*BARS, *MOSAIC, *GRID, *MORE)
    tunings: tuple[tuple[Any, dict[str, int]], ...] = TUNINGS
    interpret: bool = False


TINY = Shape("tiny", 4, 2, 16)
DRY = Plan(
    copy_bytes=2**20,
    matmul_size=64,
    repeats=1,
    long_enough=0.0,
    checks=(Check(TINY, "float32", "float32"), Check(TINY, kv_dtype="int8")),
    timed=(Decode(TINY, 2, 32), Prefill(TINY, 1, 32, 32)),
    tunings=((Decode(TINY, 2, 32), {"split_keys": 64}),),
    interpret=True,
)
"""The same path on a CPU with interpreted kernels: it shows that the script runs, nothing more."""
