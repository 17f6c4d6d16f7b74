"""The pictures of attribution patching and of integrated gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ferrum_jax.research.figure import (
    DIVERGING,
    LINES,
    MAX_LABELLED,
    FigurePath,
    heat_map,
    name_columns,
    name_layers,
    name_tokens,
    new_figure,
    saved,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ferrum_jax.research.gradients.integrated import IntegratedGradients
    from ferrum_jax.research.gradients.patching import AttributionPatching


def plot_patching(found: AttributionPatching, path: FigurePath) -> Figure:
    """Draw an attribution patching; see `AttributionPatching.plot`."""
    headed = [site for site, values in found.effects.items() if values.ndim == 3]
    tokens = max(2.6, min(0.34 * len(found.clean_tokens), 9.0))
    heads = max((found.effects[site].shape[2] for site in headed), default=0)
    widths = [tokens, *([max(2.0, min(0.4 * heads, 6.0))] if headed else [])]
    row = max(2.2, min(0.3 * len(found.layers), 7.0)) + 1.1
    figure, axes = new_figure(
        "AttributionPatching",
        sum(widths) + 2.6,
        row * len(found.effects) + 0.6,
        len(found.effects),
        len(widths),
        width_ratios=widths,
    )
    for (site, values), line in zip(found.effects.items(), axes, strict=True):
        by_token = found.by_token(site)
        _panel(line[0], by_token, found, f"{site}, summed over heads" if values.ndim == 3 else site)
        name_tokens(line[0], "x", _changed(found))
        line[0].set_xlabel(_token_label(found), fontsize=9)
        if site in headed:
            by_head = found.by_head(site)
            _panel(line[1], by_head, found, f"{site}, summed over tokens")
            name_columns(line[1], [str(head) for head in range(by_head.shape[1])])
            line[1].set_xlabel("head", fontsize=9)
        for ax in line[1 + (site in headed) :]:
            ax.set_axis_off()
    figure.suptitle(
        "estimated change of the metric when corrupt activations replace clean ones\n"
        f"(metric: {found.clean_metric:.3g} clean, {found.corrupt_metric:.3g} corrupt)",
        fontsize=10.5,
    )
    return saved(figure, path)


def _panel(ax: Axes, cells: np.ndarray, found: AttributionPatching, title: str) -> None:
    """A heat map with a scale of its own, zero in its middle."""
    bound = float(np.nanmax(np.abs(cells), initial=0.0)) or 1.0
    image = heat_map(ax, cells, -bound, bound, DIVERGING)
    name_layers(ax, found.layers)
    ax.set_title(title, fontsize=9.5, loc="left")
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02, aspect=50)
    bar.set_label("change of the metric", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _changed(found: AttributionPatching) -> list[str]:
    """The clean tokens; where the corrupt one differs, both."""
    pairs = zip(found.clean_tokens, found.corrupt_tokens, strict=True)
    return [a if a == b else f"{a}|{b}" for a, b in pairs]


def _token_label(found: AttributionPatching) -> str:
    if len(found.clean_tokens) > MAX_LABELLED:
        return "position"
    return "token (clean|corrupt where they differ)"


def plot_integrated(found: IntegratedGradients, path: FigurePath) -> Figure:
    """Draw integrated gradients; see `IntegratedGradients.plot`."""
    count = len(found.tokens)
    width = max(4.5, min(0.3 * count + 1.2, 13.0))
    figure, axes = new_figure("IntegratedGradients", width, 3.4)
    ax = axes[0, 0]
    colours = [LINES[0] if share >= 0 else LINES[1] for share in found.shares]
    ax.bar(np.arange(count), found.shares, 0.8, color=colours)
    ax.axhline(0, color="#1a1a1a", lw=0.8)
    ax.set_xlim(-0.7, count - 0.3)
    name_tokens(ax, "x", found.tokens)
    ax.set_xlabel("token" if count <= MAX_LABELLED else "position", fontsize=9)
    ax.set_ylabel("share of the metric", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.tick_params(axis="x", length=0)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.set_title(
        f"metric {found.baseline_metric:.3g} at the baseline, {found.metric:.3g} at the prompt\n"
        f"integrated at {found.site} of layer {found.layer}, off by {found.error:+.1g}",
        fontsize=9.5,
        loc="left",
    )
    return saved(figure, path)
