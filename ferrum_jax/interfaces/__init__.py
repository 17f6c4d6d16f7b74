"""Protocols that implementations meet; nothing here computes."""

from ferrum_jax.interfaces.attention import Attend
from ferrum_jax.interfaces.executor import ModelExecutor
from ferrum_jax.interfaces.proposer import Grammar, Proposer
from ferrum_jax.interfaces.sampler import LogitsProcessor, Sampler
from ferrum_jax.interfaces.scheduler import (
    BlockManager,
    EvictionPolicy,
    Scheduler,
    SchedulingPolicy,
)
from ferrum_jax.interfaces.taps import EditOperation
from ferrum_jax.interfaces.tokenizer import CleaningTokenizer, SpellingTokenizer, Tokenizer
from ferrum_jax.interfaces.weights import WeightSource

__all__ = [
    "Attend",
    "BlockManager",
    "CleaningTokenizer",
    "EditOperation",
    "EvictionPolicy",
    "Grammar",
    "LogitsProcessor",
    "ModelExecutor",
    "Proposer",
    "Sampler",
    "Scheduler",
    "SchedulingPolicy",
    "SpellingTokenizer",
    "Tokenizer",
    "WeightSource",
]
