"""The picture of activation statistics: lines by layer, and the channels of each site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ferrum_jax.research.figure import GREY, LINES, FigurePath, new_figure, saved
from ferrum_jax.research.reading.statistics import OUTLIER, channel_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ferrum_jax.research.reading.statistics import ActivationStatistics, SiteStatistics

PANELS = {
    "rms": "RMS",
    "absmax": "largest absolute value",
    "kurtosis": "kurtosis (normal: 3)",
    "fraction_zero": "zeros [%]",
}
MARKERS = "osD^vPX"
ACROSS = len(PANELS)
NAMED = 3
"""Outlier channels that are named in a panel."""


def plot_statistics(found: ActivationStatistics, path: FigurePath) -> Figure:
    """Draw statistics; see `ActivationStatistics.plot`."""
    sites = list(found.sites.values())
    rows = 1 + -(-len(sites) // ACROSS)
    figure, axes = new_figure("ActivationStatistics", 3.4 * ACROSS + 1, 2.8 * rows, rows, ACROSS)
    for ax, name in zip(axes[0], PANELS, strict=True):
        _draw_lines(ax, found, name)
    panels = list(axes[1:].flat)
    for i, (ax, site) in enumerate(zip(panels, sites, strict=False)):
        _draw_channels(ax, site, LINES[i % len(LINES)])
    bounds = np.asarray([ax.get_ylim() for ax in panels[: len(sites)]])
    for ax in panels[: len(sites)]:
        ax.set_ylim(bounds[:, 0].min(), bounds[:, 1].max())
    for ax in panels[len(sites) :]:
        ax.set_visible(False)
    lines, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle(f"{found.tokens:,} tokens of {found.texts:,} texts", fontsize=10.5)
    return saved(figure, path)


def _draw_lines(ax: Axes, found: ActivationStatistics, name: str) -> None:
    share = name == "fraction_zero"
    for i, site in enumerate(found.sites.values()):
        values = getattr(site.per_layer, name) * (100 if share else 1)
        colour, marker = LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]
        ax.plot(site.layers, values, color=colour, marker=marker, lw=1.2, ms=3.5, label=site.site)
    if share:
        ax.set_ylim(-2, 102)
    else:
        _use_log_scale(ax)
    _finish(ax, PANELS[name])


def _draw_channels(ax: Axes, site: SiteStatistics, colour: str) -> None:
    """A dot for each channel, the outliers coloured and the largest named."""
    for layer in site.layers:
        relative = site.relative_rms(layer).ravel()
        relative = relative[relative > 0]
        usual = relative[relative <= OUTLIER]
        place = np.full(len(usual), layer)
        ax.scatter(place, usual, s=2, color=GREY, alpha=0.35, lw=0, rasterized=True)
    outliers = site.outliers()
    if outliers:
        ax.scatter(
            [layer for layer, _, _ in outliers], [r for _, _, r in outliers], s=14, color=colour
        )
    for layer, place, ratio in _largest_by_channel(outliers):
        left = layer > np.mean(site.layers)
        ax.annotate(
            channel_name(place),
            (layer, ratio),
            xytext=(-6 if left else 6, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=7,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"},
        )
    ax.axhline(OUTLIER, color="#1a1a1a", lw=0.8, ls=":")
    _use_log_scale(ax)
    ax.set_title(f"channels of {site.site}", fontsize=9)
    _finish(ax, "RMS / median of its layer")


def _largest_by_channel(outliers: list) -> list:
    """The largest ratio of each channel, for the first channels only."""
    first = {}
    for layer, place, ratio in outliers:
        first.setdefault(place, (layer, place, ratio))
    return list(first.values())[:NAMED]


def _use_log_scale(ax: Axes) -> None:
    """A log scale whose labels are plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


def _finish(ax: Axes, label: str) -> None:
    ax.set_ylabel(label, fontsize=9)
    ax.set_xlabel("layer", fontsize=9)
    ax.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[attr-defined]
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
