"""The gradient of a metric to activations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ferrum_jax.research.gradients.probes import (
    Activations,
    Metric,
    Model,
    ProbedPrompt,
    checked_sites,
    metric_and_gradient,
)
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import Taps


@dataclass(frozen=True, eq=False)
class ActivationGradients:
    """Activations of a prompt and a metric's gradients to them, float32 `[T, ...]`."""

    token_ids: Int[np.ndarray, " T"]
    tokens: tuple[str, ...]
    """Each as the vocabulary spells it."""
    metric: float
    values: Activations
    """`values[site][layer]`, edits included."""
    gradients: Activations
    """`gradients[site][layer]`: of the metric, all that follows the activation included."""

    def __repr__(self) -> str:
        norms = {
            f"{site}.{layer}": float(np.linalg.norm(x))
            for site, layers in self.gradients.items()
            for layer, x in layers.items()
        }
        listed = "\n".join(f"{norm:12.4g}  {name}" for name, norm in norms.items())
        return f"metric {self.metric:.6g} of {len(self.tokens)} tokens; gradient norms:\n{listed}"


def activation_gradients(
    model: Model,
    prompt: Prompt,
    metric: Metric,
    sites: str | Iterable[str],
    layers: int | Iterable[int] | None = None,
    taps: Taps | None = None,
) -> ActivationGradients:
    """d metric / d activation, of every token, at sites and layers.

    Args:
        model: an `LLM`, or a pair `(config, params)`; prompts are then token ids.
        metric: from logits `[T, V]` to a float, as `lambda logits: logits[-1, 5] - logits[-1, 7]`.
        sites: see `ferrum_jax.types.SITES`.
        layers: None: all that have the site.
        taps: edits of the model; values and gradients are of what they leave.

    Raises:
        RequestError: a wrong prompt, a site or layer that does not exist, edits that do not fit,
            or a metric that returns no single float.
    """
    run = ProbedPrompt.of(model, prompt, taps)
    named, chosen = checked_sites(run.config, sites, layers)
    values, logits = run.run(named, chosen)
    worth, cotangent = metric_and_gradient(metric, logits)
    gradients = run.pull_back(cotangent, named, chosen)
    return ActivationGradients(run.token_ids, run.tokens, worth, values, gradients)
