"""What is checked and what is timed, as data; the most telling first, since a run may be cut."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Norm:
    """`add_rms_norm` of tokens of a model's size."""

    rows: int
    size: int
    dtype: str = "bfloat16"
    kernel: str = "add_rms_norm"


@dataclass(frozen=True)
class Rope:
    """`rope_write` of a token for each row."""

    rows: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    kv_dtype: str = "bfloat16"
    dtype: str = "bfloat16"
    kernel: str = "rope_write"


@dataclass(frozen=True)
class Sample:
    """`top_p_sample` with temperature 0.8, top-k of 50, top-p of 0.9 and min-p of 0.02."""

    rows: int
    vocab: int
    dtype: str = "float32"
    kernel: str = "top_p_sample"


@dataclass(frozen=True)
class Rounded:
    """`quantised_matmul`; int4 with groups of 32."""

    rows: int
    inputs: int
    outputs: int
    kind: str
    dtype: str = "bfloat16"
    kernel: str = "quantised_matmul"


@dataclass(frozen=True)
class Experts:
    """`grouped_matmul`: each of the rows' tokens goes to `chosen` random experts."""

    rows: int
    experts: int
    chosen: int
    inputs: int
    outputs: int
    dtype: str = "bfloat16"
    kernel: str = "grouped_matmul"


Work = Norm | Rope | Sample | Rounded | Experts
KINDS = ("int8", "int4", "fp8")


def llama(rows: int) -> tuple[Work, ...]:
    """What a step of Llama-3-8B takes, with a prefill of 2048 rows or fewer rows of decode."""
    return (
        *(Rounded(rows, 4096, 14_336, kind) for kind in KINDS),
        Norm(rows, 4096),
        Rope(rows, 32, 8),
        *((Sample(rows, 128_256),) if rows <= 256 else ()),
        Rope(rows, 32, 8, kv_dtype="int8"),
        Rounded(rows, 14_336, 4096, "int8"),
    )


def qwen(rows: int) -> tuple[Work, ...]:
    """What a step of Qwen3-0.6B takes; its own vocabulary, 151,936, is not much above Llama's."""
    return (
        Rounded(rows, 1024, 3072, "int8"),
        Rounded(rows, 1024, 3072, "int4"),
        Norm(rows, 1024),
        Rope(rows, 16, 8),
        *((Sample(rows, 32_000),) if rows <= 256 else ()),
    )


def mixtures(rows: int) -> tuple[Work, ...]:
    """The experts of Mixtral-8x7B, and of Qwen3-30B-A3B."""
    return Experts(rows, 8, 2, 4096, 14_336), Experts(rows, 128, 8, 2048, 1536)


ROWS = (16, 2048, 1, 64, 256)
TIMED = (
    *(work for rows in ROWS for work in (*llama(rows), *mixtures(rows))),
    *(work for rows in ROWS for work in qwen(rows)),
)
CHECKS: tuple[Work, ...] = (
    *(Rounded(rows, 4096, 1536, kind) for kind in KINDS for rows in (1, 50, 300)),
    *(Rounded(7, 1056, 777, kind, "float32") for kind in KINDS),
    Rounded(20, 1056, 777, "int4", "float16"),
    *(Experts(rows, 8, 2, 1024, 1000, dtype) for rows, dtype in ((3, "bfloat16"), (70, "float32"))),
    Experts(200, 60, 4, 1000, 512, "float16"),
    *(Norm(33, size, dtype) for size, dtype in ((4096, "bfloat16"), (5000, "float32"))),
    *(Rope(70, 32, 8, kv_dtype=dtype) for dtype in ("bfloat16", "int8", "float8_e4m3fn")),
    Rope(33, 6, 2, 80, "float32", "float32"),
    *(Sample(64, vocab) for vocab in (32_000, 128_256)),
)
TOLERANCE = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
"""Relative to the results' sizes, and absolute below 1."""
QUANTISED_TOLERANCE = 6e-2
"""Of keys in eight bits: a step of the largest, beside which a rounding may fall differently."""
OTHER_TOKENS = 0.02
"""Share of sampled tokens that may be others: a sum of probabilities in another order ends a
nucleus elsewhere."""


@dataclass(frozen=True)
class Plan:
    """The whole experiment."""

    seconds: float = 210.0
    """After which nothing new begins; a run takes at most half a minute more."""
    copy_bytes: int = 2**31
    matmul_size: int = 8192
    repeats: int = 5
    long_enough: float = 0.01
    """Seconds of device work of one repeat, so that its start does not count."""
    longest: float = 0.5
    """Seconds after which no repeat begins."""
    checks: tuple[Work, ...] = CHECKS
    timed: tuple[Work, ...] = TIMED
    interpret: bool = False


DRY_WORK: tuple[Work, ...] = (
    *(Rounded(2, 64, 24, kind) for kind in KINDS),
    Experts(3, 4, 2, 32, 24),
    Norm(3, 48),
    Rope(3, 4, 2, 16),
    Rope(3, 4, 2, 16, kv_dtype="int8"),
    Sample(2, 64),
)
DRY = Plan(
    copy_bytes=2**20,
    matmul_size=64,
    repeats=1,
    long_enough=0.0,
    checks=DRY_WORK,
    timed=DRY_WORK,
    interpret=True,
)
"""The same path on a CPU with interpreted kernels: it shows that the script runs, nothing more."""
