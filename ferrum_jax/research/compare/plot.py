"""The picture of a comparison: two distributions, a profile, and where in the network they part."""

from __future__ import annotations

import math
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ferrum_jax.research.compare.parting import Parting
from ferrum_jax.research.figure import (
    GREY,
    LINES,
    SEQUENTIAL,
    add_scale,
    heat_map,
    name_columns,
    new_figure,
    saved,
    write_cells,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ferrum_jax.research.compare.comparison import Comparison

WIDTH, HEIGHT = 12.0, 8.0
"""Inches."""
BLUE, ORANGE = LINES[:2]
MOST_WRITTEN = 32
"""Layers whose errors are also written into their cells."""
MOST_LABELS = 16
"""Layer numbers beside the heat map."""


def plot_comparison(report: Comparison, path: str | PathLike[str] | None) -> Figure:
    """See `Comparison.plot`."""
    figure, axes = new_figure("Comparison", WIDTH, HEIGHT, rows=2, columns=2)
    a, b = report.names
    documents = f"{report.num_documents:,} document{'' if report.num_documents == 1 else 's'}"
    title = f"{b} against {a}: {documents}, {report.num_tokens:,} tokens"
    figure.suptitle(title, fontsize=12, parse_math=False)
    _draw_kld(axes[0, 0], report)
    _draw_delta_p(axes[0, 1], report)
    _draw_positions(axes[1, 0], report)
    _draw_parting(figure, axes[1, 1], report)
    return saved(figure, path)


def _draw_kld(ax: Axes, report: Comparison) -> None:
    histogram = report.curves.kld
    bound = ", lower bound" if report.kld_is_bound else ""
    _label(ax, f"KL divergence per token{bound}", "KLD [nats]", "tokens")
    if not histogram.counts:
        _say(ax, "every KLD is 0")
        return
    ax.set_xscale("log")
    ax.stairs(histogram.counts, histogram.edges, fill=True, color=BLUE, alpha=0.75)
    marks = {
        "mean": report.kld.value,
        "median": report.kld_percentiles[50.0].value,
        "99 %": report.kld_percentiles[99.0].value,
    }
    styles = ("-", "--", ":")
    for (name, value), style in zip(marks.items(), styles, strict=True):
        if value > 0 and math.isfinite(value):
            label = f"{name} {value:.2e}"
            ax.axvline(value, color=ORANGE, linestyle=style, linewidth=1.4, label=label)
    if histogram.outside:
        ax.plot([], [], " ", label=f"0 or infinite: {histogram.outside:,}")
    ax.legend(fontsize=8, frameon=False)


def _draw_delta_p(ax: Axes, report: Comparison) -> None:
    histogram = report.curves.delta_p
    a, b = report.names
    _label(
        ax, "Change of the true token's probability", f"p({b}) - p({a}) [%]", "tokens (log scale)"
    )
    if not histogram.counts:
        _say(ax, "no probability differs")
        return
    edges = 100 * np.asarray(histogram.edges)
    ax.set_yscale("log")
    ax.stairs(histogram.counts, edges, fill=True, color=BLUE, alpha=0.75, baseline=0.5)
    ax.set_ylim(bottom=0.5)
    ax.ticklabel_format(axis="x", scilimits=(-2, 4))
    mean = f"mean {100 * report.delta_p.value:+.3g} %, RMS {100 * report.delta_p_rms.value:.3g} %"
    ax.axvline(100 * report.delta_p.value, color=ORANGE, linewidth=1.4, label=mean)
    ax.legend(fontsize=8, frameon=False)


def _draw_positions(ax: Axes, report: Comparison) -> None:
    """Mean KLD by position, with a band of one standard error."""
    profile = report.curves.kld_by_position
    _label(ax, "KL divergence by position", "tokens before the predicted one", "mean KLD [nats]")
    edges, means = np.asarray(profile.edges), np.asarray(profile.means)
    errors = np.nan_to_num(np.asarray(profile.errors))
    if not np.isfinite(means).any() or not np.nanmax(means) > 0:
        _say(ax, "every KLD is 0")
        return
    ax.set_xscale("log")
    low, high = np.maximum(means - errors, 0), means + errors
    ax.stairs(high, edges, baseline=low, fill=True, color=BLUE, alpha=0.25, label="± 1 error")
    ax.stairs(means, edges, baseline=None, color=BLUE, linewidth=1.6, label="mean of bin")
    ax.ticklabel_format(axis="y", scilimits=(-2, 4))
    ax.set_ylim(0, 1.08 * float(np.nanmax(high[np.isfinite(high)])))
    ax.legend(fontsize=8, frameon=False)


def _draw_parting(figure: Figure, ax: Axes, report: Comparison) -> None:
    parting = report.parting
    if parting is None:
        ax.set_title("Where they part", loc="left", fontsize=10)
        _say(ax, f"not measured:\n{report.parting_note}")
        return
    errors = np.asarray(parting.errors)
    low, high = _range(errors)
    shown = np.log10(np.clip(errors, 10.0**low, None))  # 0 has the colour of the smallest
    image = heat_map(ax, shown.T, low, high, SEQUENTIAL)
    name_columns(ax, parting.sites)
    ax.set_yticks(range(0, errors.shape[1], -(-errors.shape[1] // MOST_LABELS)))
    ax.set_ylabel("layer", fontsize=9)
    ax.set_title(_parting_title(parting), loc="left", fontsize=10)
    add_scale(figure, image, ax, "relative error, log10")
    if errors.shape[1] <= MOST_WRITTEN:
        size = min(7.5, 150 / errors.shape[1])
        write_cells(image, [[f"{x:.0e}" if x else "0" for x in row] for row in errors.T], size)
    _outline_first(ax, parting)


def _range(errors: Float[np.ndarray, "sites layers"]) -> tuple[float, float]:
    """Powers of ten that the errors above 0 lie between, from a whole one on."""
    found = errors[(errors > 0) & np.isfinite(errors)]
    if not found.size:
        return -7.0, 0.0
    low = math.floor(math.log10(found.min()))
    return low, max(math.log10(found.max()), low + 1)


def _parting_title(parting: Parting) -> str:
    if parting.first is None:
        return f"They part nowhere (no error above {parting.threshold:.0e})"
    layer, site = parting.first
    return f"They part at layer {layer}, {site} (above {parting.threshold:.0e})"


def _outline_first(ax: Axes, parting: Parting) -> None:
    """A frame around the cell where the two part."""
    from matplotlib.patches import Rectangle

    if parting.first is not None:
        layer, site = parting.first
        corner = (parting.sites.index(site) - 0.5, layer - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=ORANGE, linewidth=2.5, zorder=4))


def _label(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left", fontsize=10)
    ax.set_xlabel(x, fontsize=9, parse_math=False)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _say(ax: Axes, text: str) -> None:
    """A panel that has nothing to draw says why."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("")
    ax.set_ylabel("")
    ax.spines[:].set_visible(False)
    style = {"ha": "center", "va": "center", "fontsize": 10, "color": GREY, "parse_math": False}
    ax.text(0.5, 0.5, text, transform=ax.transAxes, wrap=True, **style)  # type: ignore[arg-type]
