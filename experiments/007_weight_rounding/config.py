"""Which roundings, on which text, as data."""

from dataclasses import dataclass

from rounding import Rounding


@dataclass(frozen=True)
class Plan:
    """All matrices rounded in several ways; then one kind, and one layer, at a time."""

    model: str = "demo"
    roundings: tuple[Rounding, ...] = (
        Rounding("bf16", None),
        Rounding("int8, channel", 8),
        Rounding("int4, group of 32", 4, 32),
        Rounding("int4, group of 64", 4, 64),
        Rounding("int4, channel", 4),
    )
    swept: str = "int4, channel"
    """Which of them one kind of matrix, or one layer, is rounded to at a time."""
    parting: float = 0.01
    """Relative error of an activation from which on two networks count as parted."""
    length: int = 256
    """Tokens of each held-out document, BOS counted."""
    seed: int = 0
    """Of the bootstrap over documents; nothing else is drawn."""
