"""Checkpoints on disk: finding them, checking them, reading their tensors."""

from ferrum_jax.models.weights.checkpoint import open_checkpoint
from ferrum_jax.models.weights.files import read_json
from ferrum_jax.models.weights.hub import resolve_checkpoint

__all__ = ["open_checkpoint", "read_json", "resolve_checkpoint"]
