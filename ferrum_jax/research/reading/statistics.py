"""What the activations of a model are like over a corpus, per site, layer and channel.

Dimension key: L layers, `*C` the channels of a site (its shape without the tokens).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ferrum_jax.research.figure import FigurePath
from ferrum_jax.research.prompt import checked_edits
from ferrum_jax.research.reading.moments import Moments
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import RequestError, Taps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.runtime.llm import LLM

OUTLIER = 6.0
"""Times the layer's median RMS from which a channel counts as an outlier."""
LISTED = 3
"""Outlier channels of a site that `repr` names."""
HEAD = f"{'site':14}  layer        mean         RMS    abs max  kurtosis    zero"


@dataclass(frozen=True, eq=False)
class ValueStatistics:
    """Of the values of each layer `[L]`, or of each channel `[*C]`; float64."""

    mean: Float[np.ndarray, "*C"]
    variance: Float[np.ndarray, "*C"]
    """Of the population: divided by the number of values."""
    rms: Float[np.ndarray, "*C"]
    absmax: Float[np.ndarray, "*C"]
    kurtosis: Float[np.ndarray, "*C"]
    """Fourth central moment / variance^2: 3 of a normal distribution, nan of a constant."""
    fraction_zero: Float[np.ndarray, "*C"]

    @classmethod
    def of(cls, moments: Moments) -> Self:
        """From the sums of a stream."""
        n, mean, variance = moments.count, moments.mean, moments.m2 / moments.count
        with np.errstate(divide="ignore", invalid="ignore"):
            kurtosis = moments.m4 / n / variance**2
        values = {
            "mean": mean,
            "variance": variance,
            "rms": np.sqrt(mean**2 + variance),
            "absmax": moments.absmax,
            "kurtosis": np.where(variance > 0, kurtosis, np.nan),
            "fraction_zero": moments.zeros / n,
        }
        return cls(**{name: np.asarray(value) for name, value in values.items()})


@dataclass(frozen=True, eq=False)
class SiteStatistics:
    """One site of the model."""

    site: str
    layers: tuple[int, ...]
    per_layer: ValueStatistics
    """Of all values of a layer together: arrays `[L]`."""
    channels: dict[int, ValueStatistics]
    """By layer, of each channel: arrays `[*C]`."""

    def relative_rms(self, layer: int) -> Float[np.ndarray, "*C"]:
        """Each channel's RMS over the median of its layer's; nan where that is 0."""
        rms = self.channels[layer].rms
        median = np.median(rms)
        return rms / median if median > 0 else np.full_like(rms, np.nan)

    def outliers(self, ratio: float = OUTLIER) -> list[tuple[int, tuple[int, ...], float]]:
        """`(layer, channel, relative RMS)` of channels above a ratio, the largest first."""
        found = [
            (layer, tuple(int(i) for i in place), float(relative[tuple(place)]))
            for layer in self.layers
            for relative in [self.relative_rms(layer)]
            for place in np.argwhere(relative > ratio)
        ]
        return sorted(found, key=lambda entry: -entry[2])

    def rows(self) -> list[str]:
        """A line of a table for each layer."""
        s = self.per_layer
        return [
            f"{self.site:14}  {layer:5d}  {s.mean[i]:10.3g}  {s.rms[i]:10.3g}  {s.absmax[i]:9.3g}"
            f"  {s.kurtosis[i]:8.3g}  {s.fraction_zero[i]:6.1%}"
            for i, layer in enumerate(self.layers)
        ]

    def remark(self) -> str:
        """What there is to say of outlier channels; nothing if there are none."""
        outliers = self.outliers()
        named = ", ".join(
            f"{channel_name(channel)} of layer {layer} ({ratio:.1f} x)"
            for layer, channel, ratio in outliers[:LISTED]
        )
        more = ", ..." if len(outliers) > LISTED else ""
        limit = f"{OUTLIER:g} x the median RMS of their layer"
        return f"{self.site}: {len(outliers)} channels beyond {limit}: {named}{more}" * bool(named)

    def __repr__(self) -> str:
        return "\n".join(filter(None, [HEAD, *self.rows(), self.remark()]))


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Statistics of every site that was asked for: `found["resid_post"].per_layer.rms`."""

    texts: int
    tokens: int
    sites: dict[str, SiteStatistics]

    def __getitem__(self, site: str) -> SiteStatistics:
        if site not in self.sites:
            raise RequestError(f"site is {site!r}; there are {', '.join(self.sites)}")
        return self.sites[site]

    def __repr__(self) -> str:
        head = f"activations of {self.tokens:,} tokens in {self.texts:,} texts"
        found = self.sites.values()
        rows = [row for site in found for row in site.rows()]
        return "\n".join([head, HEAD, *rows, *filter(None, (site.remark() for site in found))])

    def plot(self, path: FigurePath = None) -> Figure:
        """RMS, largest value, kurtosis and zeros by layer, and each site's channels by layer.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from ferrum_jax.research.reading.statistics_plot import plot_statistics

        return plot_statistics(self, path)


def activation_statistics(
    llm: LLM,
    texts: Prompt | Iterable[Prompt],
    sites: str | Sequence[str] = ("resid_post",),
    layers: int | Sequence[int] | None = None,
    *,
    taps: Taps | None = None,
    progress: bool = False,
) -> ActivationStatistics:
    """Statistics of activations over a corpus that need not fit in memory.

    The texts run through the engine in batches and their activations are summed up as they come;
    what is kept grows with layers and channels only.

    Args:
        texts: also an iterator, which is read as the engine gets to it.
        sites: any but `pattern`, which has no fixed channels.
        layers: None: all.
        taps: edits, to read an edited model.
        progress: show a bar by tokens.

    Raises:
        RequestError: a wrong text, site or layer, or no texts.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    if "pattern" in names:
        raise RequestError(
            "the site 'pattern' has no fixed channels; see attention_patterns, or induction_scores"
        )
    edits = Taps(edits=checked_edits(taps, llm.config))
    state: dict[str, dict[int, Moments]] = {}
    seen: set[int] = set()
    tokens = 0
    with tqdm(unit="token", unit_scale=True, disable=not progress) as bar:
        for chunk in llm.iter_capture(texts, sites=names, layers=layers, taps=edits):
            seen.add(chunk.prompt)
            tokens += len(chunk)
            bar.update(len(chunk))
            for site, values in chunk.values.items():
                _add(state.setdefault(site, {}), values)
    if not seen:
        raise RequestError("there are no texts; give at least one")
    return ActivationStatistics(
        len(seen), tokens, {site: _site_statistics(site, state[site]) for site in names}
    )


def _add(moments: dict[int, Moments], values: dict[int, np.ndarray]) -> None:
    for layer, x in values.items():
        new = Moments.of(x)
        moments[layer] = moments[layer] + new if layer in moments else new


def _site_statistics(site: str, moments: dict[int, Moments]) -> SiteStatistics:
    layers = tuple(sorted(moments))
    pooled = [ValueStatistics.of(moments[layer].pooled()) for layer in layers]
    per_layer = {
        f.name: np.asarray([getattr(p, f.name) for p in pooled]) for f in fields(ValueStatistics)
    }
    channels = {layer: ValueStatistics.of(moments[layer]) for layer in layers}
    return SiteStatistics(site, layers, ValueStatistics(**per_layer), channels)


def channel_name(place: tuple[int, ...]) -> str:
    """`channel 12`, `head 3 channel 12` of a site with heads, `head 3 element 12, 4` of a state."""
    if len(place) > 2:
        return f"head {place[0]} element {', '.join(map(str, place[1:]))}"
    return " ".join(
        f"{n} {i}" for n, i in zip(("head", "channel")[-len(place) :], place, strict=True)
    )
