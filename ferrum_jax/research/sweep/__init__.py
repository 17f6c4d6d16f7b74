"""Sweeps: many variants of a model, one metric, an honest error for each difference.

table = sweep(llm, {"gelu": edit_layers(llm.config, activation="gelu_tanh")}, nll(texts))
print(table)
"""

from ferrum_jax.research.sweep.axes import Grid, grid
from ferrum_jax.research.sweep.compare import RowComparison, SweepComparison
from ferrum_jax.research.sweep.divergence import kl_from_baseline
from ferrum_jax.research.sweep.metrics import bits_per_byte, logprob_of, nll
from ferrum_jax.research.sweep.run import sweep
from ferrum_jax.research.sweep.table import SweepRow, SweepTable
from ferrum_jax.research.sweep.variant import Variant

__all__ = [
    "Grid",
    "RowComparison",
    "SweepComparison",
    "SweepRow",
    "SweepTable",
    "Variant",
    "bits_per_byte",
    "grid",
    "kl_from_baseline",
    "logprob_of",
    "nll",
    "sweep",
]
