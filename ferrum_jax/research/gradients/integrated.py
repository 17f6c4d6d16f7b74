"""Integrated gradients: each token's share of a metric, along a line from a baseline.

Sundararajan et al. 2017: with the activations x of a prompt and x0 of a baseline, an element's
share is `(x - x0) * integral_0^1 dm/dx (x0 + a (x - x0)) da`; all shares add up to m(x) - m(x0).

Dimension key: T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ferrum_jax.research.figure import FigurePath
from ferrum_jax.research.gradients.probes import (
    Metric,
    Model,
    ProbedPrompt,
    checked_sites,
    metric_and_gradient,
)
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import RequestError, Taps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class IntegratedGradients:
    """Each token's share of what a metric gains from the baseline to the prompt."""

    tokens: tuple[str, ...]
    """Each as the vocabulary spells it."""
    site: str
    layer: int
    metric: float
    baseline_metric: float
    shares: Float[np.ndarray, " T"]
    elements: Float[np.ndarray, "T ..."]
    """Of each element of the activation; a token's add up to its share."""

    @property
    def error(self) -> float:
        """The sum of the shares, less what they should add up to; more `steps` make it smaller."""
        return float(self.shares.sum()) - (self.metric - self.baseline_metric)

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"metric {self.baseline_metric:.6g} at the baseline, {self.metric:.6g} at the "
                f"prompt; shares at {self.site} of layer {self.layer}, off by {self.error:+.2g}:",
                *(
                    f"{share:+12.4g}  {token!r}"
                    for share, token in zip(self.shares, self.tokens, strict=True)
                ),
            ]
        )

    def plot(self, path: FigurePath = None) -> Figure:
        """The share of each token, as bars.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from ferrum_jax.research.gradients.plot import plot_integrated

        return plot_integrated(self, path)


def integrated_gradients(
    model: Model,
    prompt: Prompt,
    metric: Metric,
    *,
    baseline: Any = None,
    steps: int = 32,
    site: str = "resid_pre",
    layer: int = 0,
    taps: Taps | None = None,
    progress: bool = False,
) -> IntegratedGradients:
    """Split what a metric gains from a baseline to a prompt among the prompt's tokens.

    Args:
        model: an `LLM`, or a pair `(config, params)`; prompts are then token ids.
        metric: from logits `[T, V]` to a float.
        baseline: a prompt of as many tokens (a text or a list of ids), whose activations are the
            baseline; or an array `[T, *site]`, or `[*site]` for all tokens. None: the mean over the
            prompt's tokens. Zeros suit models without norms only: on the way to zero a norm turns
            ever smaller inputs into outputs of one size, and no number of steps is enough.
        steps: gradients along the line, at Gauss-Legendre points. The result's `error` says whether
            they were enough; where a model of experts changes its routing along the line the metric
            jumps, and the jumps stay in the error.
        site, layer: where; by default the embeddings.
        progress: show a bar by steps.

    Raises:
        RequestError: a wrong prompt, baseline, site, layer, number of steps or metric.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise RequestError(f"steps is {steps!r}; give a number from 1")
    run = ProbedPrompt.of(model, prompt, taps)
    sites, layers = checked_sites(run.config, site, None if site == "logits" else layer)
    if site == "pattern":
        raise RequestError("a line between attention weights is no path of tokens; choose 'z'")
    values, logits = run.run(sites, layers)
    layer = next(iter(values[site]))
    x = values[site][layer]
    start = _baseline(model, baseline, x, site, layer, taps)
    worth = metric_and_gradient(metric, logits)[0]
    mean = np.zeros(x.shape, np.float64)
    for point, weight in tqdm(_quadrature(steps), unit="step", disable=not progress):
        replaced = {site: {layer: run.padded(start + np.float32(point) * (x - start))}}
        _, there = run.run((), layers, replaced)
        cotangent = metric_and_gradient(metric, there)[1]
        mean += weight * run.pull_back(cotangent, sites, layers, replaced)[site][layer]
    _, there = run.run((), layers, {site: {layer: run.padded(start)}})
    elements = ((x - start) * mean).astype(np.float32)
    return IntegratedGradients(
        tokens=run.tokens,
        site=site,
        layer=layer,
        metric=worth,
        baseline_metric=metric_and_gradient(metric, there)[0],
        shares=elements.reshape(len(elements), -1).sum(axis=1),
        elements=elements,
    )


def _baseline(
    model: Model, given: Any, x: np.ndarray, site: str, layer: int, taps: Taps | None
) -> np.ndarray:
    """float32 of the activations' shape."""
    if given is None:
        return np.broadcast_to(x.mean(axis=0), x.shape)
    if isinstance(given, str | list | tuple):
        other = ProbedPrompt.of(model, given, taps)
        if len(other.token_ids) != len(x):
            raise RequestError(
                f"the baseline has {len(other.token_ids)} tokens and the prompt {len(x)}; give a "
                "prompt of as many, or an array"
            )
        return other.run((site,), None if site == "logits" else (layer,))[0][site][layer]
    array = np.asarray(given, np.float32)
    if array.shape not in (x.shape, x.shape[1:]):
        raise RequestError(
            f"the baseline has shape {array.shape}; {site} of layer {layer} takes {x.shape}, or "
            f"{x.shape[1:]} for all tokens"
        )
    return np.broadcast_to(array, x.shape)


def _quadrature(steps: int) -> list[tuple[float, float]]:
    """Gauss-Legendre points in (0, 1) and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))
