"""Reading a model: what its layers predict, where its heads look, what its activations are like.

Every function runs the model as it is, or with the edits given as `taps=`, and returns a frozen
result: numpy arrays, a table as its `repr`, and `plot(path=None)`, a figure of matplotlib.
"""

from ferrum_jax.research.reading.attention import AttentionPatterns, attention_patterns
from ferrum_jax.research.reading.attribution import LogitAttribution, direct_logit_attribution
from ferrum_jax.research.reading.induction import InductionScores, induction_scores
from ferrum_jax.research.reading.lens import LensReading, logit_lens
from ferrum_jax.research.reading.statistics import (
    ActivationStatistics,
    SiteStatistics,
    ValueStatistics,
    activation_statistics,
)
from ferrum_jax.research.reading.tuned_lens import TunedLens

__all__ = [
    "ActivationStatistics",
    "AttentionPatterns",
    "InductionScores",
    "LensReading",
    "LogitAttribution",
    "SiteStatistics",
    "TunedLens",
    "ValueStatistics",
    "activation_statistics",
    "attention_patterns",
    "direct_logit_attribution",
    "induction_scores",
    "logit_lens",
]
