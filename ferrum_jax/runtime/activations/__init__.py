"""Activations on disk: written prompt by prompt, read as a memory map.

`llm.capture(texts, to=folder)` writes such a folder and `fj.Activations.open(folder)` reads it;
neither needs the memory that all of it would take. `index` describes the format.
"""

from ferrum_jax.runtime.activations.reader import Activations
from ferrum_jax.runtime.activations.writer import ActivationWriter

__all__ = ["ActivationWriter", "Activations"]
