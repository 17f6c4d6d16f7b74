"""What is timed, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Batches of one request per row of the engine, unedited and edited, in turns."""

    model: str = "demo"
    requests: int = 64
    page_size: int = 16
    prompt: int = 32
    """tokens before the decode"""
    generated: int = 64
    """tokens of the decode"""
    scored: int = 128
    """tokens of a text that is scored or captured"""
    neurons: int = 16
    """ablated neurons of a request"""
    patched: int = 8
    """patched positions of a request"""
    captured_layer: int = 3
    turns: int = 7
    seed: int = 0
    """Of the random token ids and of the edits' values."""
