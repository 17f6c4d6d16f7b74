"""Grammars that an output has to stay in, by `llguidance` (the extra `guided`)."""

from ferrum_jax.guided.compiler import GrammarCompiler
from ferrum_jax.guided.matcher import GuidedText

__all__ = ["GrammarCompiler", "GuidedText"]
