"""Acceptance by draft, and the tokens that a verification would yield by draft length."""

from pathlib import Path
from typing import Any

import numpy as np

SAMPLED, GREEDY = "#1f4e8c", "#e39b52"
CURVES = {
    "without layer 2": ("#8fb4dc", "o"),
    "without the last 2 layers": ("#1f4e8c", "s"),
    "int8 weights": ("#999999", "D"),
    "int4 weights": ("#c0504d", "^"),
    "window 64": ("#e39b52", "v"),
    "prompt lookup, 3-grams": ("#000000", "x"),
}


def draw(result: dict, path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
    _draw_acceptance(panels[0], result["rows"])
    for axes, text, title in zip(
        panels[1:], ("sampled", "greedy"), ("sampling at temperature 1", "greedy"), strict=True
    ):
        _draw_lengths(axes, result["rows"], text)
        axes.set_title(title, fontsize=10)
    panels[1].legend(frameon=False, fontsize=8, loc="upper left")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_acceptance(axes: Any, rows: list[dict]) -> None:
    places = np.arange(len(rows))
    kinds = (
        ("accepted", "sampled", SAMPLED, "o", "sampling: sum of min(p, q)"),
        ("agreement", "greedy", GREEDY, "s", "greedy: same likeliest token"),
    )
    for offset, (figure, text, colour, marker, label) in zip((-0.12, 0.12), kinds, strict=True):
        values, errors = zip(*(row[figure][text] for row in rows), strict=True)
        style = {"fmt": marker, "markersize": 4.5, "color": colour, "label": label}
        axes.errorbar(values, places + offset, xerr=errors, **style)
    axes.set_yticks(places, [row["draft"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_xlabel("acceptance of one token, on the model's own text")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0, 0.2))


def _draw_lengths(axes: Any, rows: list[dict], text: str) -> None:
    lengths = np.arange(1, len(rows[0]["tokens"][text]) + 1)
    for row in rows:
        if row["draft"] not in CURVES:
            continue
        colour, marker = CURVES[row["draft"]]
        values, errors = np.asarray(row["tokens"][text]).T
        style = {"marker": marker, "markersize": 4, "linewidth": 1.3, "color": colour}
        axes.errorbar(lengths, values, yerr=errors, label=row["draft"], **style)
    axes.plot(lengths, lengths + 1, color="#777777", linewidth=0.7, linestyle=":")
    axes.set_xlabel("draft length (tokens)")
    axes.set_ylabel("expected tokens per verification (dotted: all)")
    axes.set_ylim(1, len(lengths) + 1.2)
