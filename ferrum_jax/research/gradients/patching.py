"""Attribution patching: what patching each activation would do, from one gradient.

The first-order estimate of activation patching (Nanda 2023; Syed et al. 2023): with a metric m,
putting the corrupt prompt's activation a' in the place of the clean one's a changes m by about
`(a' - a) . dm/da`, for all activations at the cost of two runs and a gradient.

Dimension key: L layers, T tokens, N heads (the most of any layer).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ferrum_jax.models.sites import site_shape
from ferrum_jax.research.figure import FigurePath
from ferrum_jax.research.gradients.probes import (
    Metric,
    Model,
    ProbedPrompt,
    checked_sites,
    metric_and_gradient,
)
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import ModelConfig, RequestError, Taps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED = 10
"""Effects that `repr` names."""


@dataclass(frozen=True, eq=False)
class AttributionPatching:
    """The estimated change of the metric when corrupt activations replace clean ones."""

    clean_tokens: tuple[str, ...]
    corrupt_tokens: tuple[str, ...]
    clean_metric: float
    corrupt_metric: float
    layers: tuple[int, ...]
    """The layer of each row of the effects."""
    effects: dict[str, np.ndarray]
    """By site: float32 `[L, T]`, or `[L, T, N]` at sites with heads. Nan where a layer has no such
    site or head."""

    def by_head(self, site: str) -> Float[np.ndarray, "L N"]:
        """The sums over the tokens.

        Raises:
            RequestError: the site was not asked for, or has no heads.
        """
        if site not in self.effects or self.effects[site].ndim != 3:
            headed = [name for name, values in self.effects.items() if values.ndim == 3]
            raise RequestError(f"{site!r} is no site with heads here; those are {headed}")
        return self.effects[site].sum(axis=1)

    def by_token(self, site: str) -> Float[np.ndarray, "L T"]:
        """The sums over the heads, at sites that have them.

        Raises:
            RequestError: the site was not asked for.
        """
        if site not in self.effects:
            raise RequestError(f"{site!r} was not asked for; there is {', '.join(self.effects)}")
        values = self.effects[site]
        if values.ndim == 2:
            return values
        absent = np.isnan(values).all(axis=2)
        return np.where(absent, np.float32(np.nan), np.nansum(values, axis=2))

    def __repr__(self) -> str:
        named = [
            (float(values[at]), self._name(site, at))
            for site, values in self.effects.items()
            for at in zip(*np.nonzero(~np.isnan(values)), strict=True)
        ]
        largest = sorted(named, key=lambda item: -abs(item[0]))[:LISTED]
        return "\n".join(
            [
                f"metric {self.clean_metric:.6g} clean, {self.corrupt_metric:.6g} corrupt; "
                "the largest estimated changes by patching corrupt into clean:",
                *(f"{value:+12.4g}  {name}" for value, name in largest),
            ]
        )

    def _name(self, site: str, at: tuple[int, ...]) -> str:
        row, token, *head = at
        heads = f", head {head[0]}" if head else ""
        return (
            f"{site} of layer {self.layers[row]}, token {token} {self.clean_tokens[token]!r}{heads}"
        )

    def plot(self, path: FigurePath = None) -> Figure:
        """Per site a heat map of layers and tokens, and one of layers and heads where it has them.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from ferrum_jax.research.gradients.plot import plot_patching

        return plot_patching(self, path)


def attribution_patching(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    metric: Metric,
    sites: str | Iterable[str] = ("z", "mlp_out"),
    layers: int | Iterable[int] | None = None,
    taps: Taps | None = None,
) -> AttributionPatching:
    """Estimate what patching activations of `corrupt` into `clean` does to a metric.

    An effect is `(a_corrupt - a_clean) . gradient`, the gradient that of the clean run, summed over
    the last axis of the activation: one number per layer and token, and per head at sites with
    heads. Of recurrent states it is one number per head, or per channel where there are no heads.
    What it estimates is `llm.logits(clean, taps=fj.edits.patch(...))`. Exact as far as the
    metric is linear in the change; poor where it saturates, as through norms of early layers.

    Args:
        model: an `LLM`, or a pair `(config, params)`; prompts are then token ids.
        clean, corrupt: prompts of as many tokens, position for position.
        metric: from logits `[T, V]` to a float.
        taps: edits that are made in both runs.

    Raises:
        RequestError: prompts of different lengths, a wrong site, layer, edit or metric.
    """
    run, other = ProbedPrompt.of(model, clean, taps), ProbedPrompt.of(model, corrupt, taps)
    if len(run.token_ids) != len(other.token_ids):
        raise RequestError(
            f"the clean prompt has {len(run.token_ids)} tokens and the corrupt one "
            f"{len(other.token_ids)}; patching goes position by position: give equal lengths"
        )
    named, chosen = checked_sites(run.config, sites, layers)
    values, logits = run.run(named, chosen)
    corrupted, corrupt_logits = other.run(named, chosen)
    worth, cotangent = metric_and_gradient(metric, logits)
    gradients = run.pull_back(cotangent, named, chosen)
    rows = _rows(run.config, named, chosen)
    return AttributionPatching(
        clean_tokens=run.tokens,
        corrupt_tokens=other.tokens,
        clean_metric=worth,
        corrupt_metric=metric_and_gradient(metric, corrupt_logits)[0],
        layers=rows,
        effects={
            site: _stacked(
                {
                    layer: _by_unit((corrupted[site][layer] - x) * gradients[site][layer])
                    for layer, x in values[site].items()
                },
                rows,
            )
            for site in named
        },
    )


def _rows(
    config: ModelConfig, sites: tuple[str, ...], layers: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Layers that have one of the sites; that of the logits is behind the last."""
    asked = range(config.num_layers) if layers is None else layers
    return tuple(
        layer
        for layer in dict.fromkeys((*asked, config.num_layers))
        if any(site_shape(config, site, layer) is not None for site in sites)
    )


def _by_unit(parts: np.ndarray) -> np.ndarray:
    """`[T, ...]` summed to `[T]`, or to `[T, N]` where there is more than one axis."""
    return parts.sum(axis=tuple(range(min(parts.ndim - 1, 2), parts.ndim)))


def _stacked(by_layer: dict[int, np.ndarray], rows: tuple[int, ...]) -> np.ndarray:
    """A row for each layer; nan where it has none, or fewer heads."""
    widest = max((x.shape for x in by_layer.values()), key=lambda shape: shape[-1])
    stacked = np.full((len(rows), *widest), np.nan, np.float32)
    for row, layer in enumerate(rows):
        if layer in by_layer:
            x = by_layer[layer]
            stacked[(row, *map(slice, x.shape))] = x
    return stacked
