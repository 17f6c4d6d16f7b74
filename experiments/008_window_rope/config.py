"""Which windows and which ropes, on which text, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Edits of the config of a trained model; nothing is trained again."""

    model: str = "demo"
    windows: tuple[int, ...] = (32, 64, 128, 256)
    """Keys visible to a query, in all layers."""
    layer_window: int = 32
    """The window of a single layer."""
    thetas: tuple[float, ...] = (1_000.0, 100_000.0)
    """Bases of the rope, in all layers; the model was trained with 10,000."""
    length: int = 512
    """Tokens of each held-out document, BOS counted: the trained context."""
    far_length: int = 1024
    """Tokens of documents that go beyond it; shorter ones are left out."""
    far_window: int = 256
    bin: int = 64
    """Positions whose loss is averaged."""
