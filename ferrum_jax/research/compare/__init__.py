"""Comparisons: how one run differs from another, token by token, and how sure that is.

report = compare(llm_a, llm_b, texts)
print(report)
report.plot("report.png")
"""

from ferrum_jax.research.compare.bootstrap import Estimate
from ferrum_jax.research.compare.comparison import Comparison
from ferrum_jax.research.compare.logprobs_file import write_logprobs
from ferrum_jax.research.compare.run import compare
from ferrum_jax.research.compare.saved import SavedLogprobs

__all__ = ["Comparison", "Estimate", "SavedLogprobs", "compare", "write_logprobs"]
