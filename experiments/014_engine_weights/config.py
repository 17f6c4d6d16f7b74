"""Which formats, on which text, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The demo model as the engine keeps its weights, beside float32."""

    model: str = "demo"
    formats: tuple[tuple[str, str | None], ...] = (
        ("bfloat16", None),
        ("float32", "int8"),
        ("float32", "fp8"),
        ("float32", "int4"),
    )
    """dtype and `EngineConfig.quantization`"""
    calibrated: tuple[str, ...] = ("int8", "fp8", "int4")
    """kinds that `fj.quantize` rounds by calibration too"""
    methods: tuple[str, ...] = ("gptq", "awq")
    calibration: int = 64
    """documents of the demo model's training whose first tokens it sees"""
    length: int = 256
    """tokens of each held-out document, BOS counted"""
    batches: tuple[int, ...] = (1, 8)
    prompt: int = 32
    steps: int = 64
    """decode steps of a turn"""
    turns: int = 15
    seed: int = 0
