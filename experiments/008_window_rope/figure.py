"""Costs of windows and ropes within the context, and the loss by position beyond it."""

from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("#000000", "#8fb4dc", "#1f4e8c", "#c0504d", "#e39b52")
STYLES = ("-", "--", "-", "-.", ":")
"""One each per config beyond the context."""
CHANGES = (-0.25, 0.15)
"""nats; linear scaling, half a nat above the others, is left out of the changes."""
ALL, ONE = "#1f4e8c", "#e39b52"


def draw(result: dict, path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.2])
    costs = left.subplots()
    losses, changes = right.subplots(2, 1, sharex=True)
    _draw_costs(costs, result["rows"])
    _draw_positions(losses, result, "bins")
    _draw_positions(changes, result, "bin_changes")
    losses.set_title(f"beyond it, {result['far_documents']} documents", fontsize=10)
    losses.set_ylabel("loss (nats per token)")
    losses.legend(frameon=False, fontsize=8, ncols=2)
    changes.set_ylabel("change of it (linear lies above)")
    changes.set_ylim(*CHANGES)
    text = {"fontsize": 8, "color": "#555555", "transform": changes.get_xaxis_transform()}
    changes.text(result["config"]["length"] + 8, 0.92, "the trained context ends", **text)
    changes.set_xlabel("position in the document (tokens; bands: standard error)")
    for axes in (costs, losses, changes):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_costs(axes: Any, rows: list[dict]) -> None:
    everywhere = [row for row in rows if row["where"] == "all layers"]
    single = sorted(
        (row for row in rows if row["where"] != "all layers"), key=lambda row: row["what"]
    )
    ordered = [*everywhere, *single]
    places = np.arange(len(ordered)) + 0.6 * (np.arange(len(ordered)) >= len(everywhere))
    for place, row in zip(places, ordered, strict=True):
        value, error = row["change"]
        colour = ALL if row in everywhere else ONE
        axes.errorbar(value, place, xerr=error, fmt="o", markersize=4.5, color=colour)
        axes.annotate(
            f"{value:+.3f}", (value, place), (7, -3), textcoords="offset points", fontsize=7
        )
    axes.set_yticks(places, [f"{row['what']}, {row['where']}" for row in ordered], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlim(min(-0.005, *(row["change"][0] for row in ordered)), 20)
    axes.axvline(0, color="#777777", linewidth=0.7, zorder=0)
    axes.set_xlabel("change of bits per byte (linear below 0.01)")
    axes.set_title("within the trained context", fontsize=10)


def _draw_positions(axes: Any, result: dict, name: str) -> None:
    """The losses, or their changes: only these have bands, the losses vary alike."""
    width, trained = result["config"]["bin"], result["config"]["length"]
    for row, colour, style in zip(result["positions"], COLOURS, STYLES, strict=True):
        values, errors = np.asarray(row[name]).T
        centres = width * (np.arange(len(values)) + 0.5)
        axes.plot(centres, values, color=colour, linestyle=style, label=row["name"])
        if name == "bin_changes":
            band = (values - errors, values + errors)
            axes.fill_between(centres, *band, color=colour, alpha=0.15, linewidth=0)
    axes.axvline(trained, color="#777777", linewidth=0.8)
