"""Which heads, on which text, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Every head of the model loses its output, in several ways, on two kinds of text."""

    model: str = "demo"
    kinds: tuple[str, ...] = ("zero", "mean", "resample")
    length: int = 128
    """Tokens of each held-out document that are scored, BOS counted."""
    donor_length: int = 256
    """Tokens behind those: means and resamples are taken from their activations."""
    samples: int = 512
    """Tokens to resample from."""
    repeat_length: int = 50
    """Random tokens of a sequence before they repeat."""
    sequences: int = 32
    """Repeated sequences: for the scores, and others for the cost."""
    resamples: int = 2000
    """Bootstrap samples, for the errors of correlations."""
    seed: int = 0
    """Of the random tokens, the resampled activations and the bootstrap."""
