"""Which drafts, on which text, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Drafts of one model, judged by the two models' distributions."""

    model: str = "demo"
    last_layers: tuple[int, ...] = (2, 3)
    """Drafts that lack so many of the last layers; those that lack a single one come anyway."""
    rounded_bits: tuple[int, ...] = (8, 4)
    """Drafts with weights rounded to integers, one scale per output channel."""
    window: int = 64
    """Keys that a query of the windowed draft sees."""
    ngram: int = 3
    """Longest n-gram that prompt lookup matches; shorter ones are tried after it."""
    prompt: int = 32
    """Tokens of each held-out document that the model continues."""
    generated: int = 96
    """Tokens of each continuation; the held-out text is cut to prompt + generated tokens."""
    longest_draft: int = 8
    turns: int = 7
    """Timings of each model, in turns, for the cost of a draft's step."""
    seed: int = 0
    """Of the sampled continuations."""
