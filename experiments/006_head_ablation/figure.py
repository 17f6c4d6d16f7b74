"""Layer x head maps of what heads look at and what losing them costs, and the two together."""

from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {"zero": "#8fb4dc", "mean": "#1f4e8c", "resample": "#c0504d"}
MARKERS = {"zero": "s", "mean": "o", "resample": "^"}
SHOWN = "mean"
"""The ablation of the maps."""
LINEAR = {"held-out": 0.02, "repeats": 0.2}
"""Costs below this are drawn on a linear scale, those above on a logarithmic one."""
NAMED_SCORE = 0.1
NAMED_COST = {"held-out": 0.02, "repeats": 0.4}
"""Heads above these are named."""
UNITS = {"held-out": "bits per byte", "repeats": "nats per token"}


def draw(result: dict, path: Path) -> None:
    """Write the figure: scores above, costs below, scatter plots to the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        2, 3, figsize=(10.5, 7.4), layout="constrained", width_ratios=[1, 1, 1.5]
    )
    heads = result["heads"]
    for axes, name in zip(panels[0], ("induction", "previous_token"), strict=False):
        values = _map(heads, lambda row, name=name: row[name][0])
        _draw_map(axes, values, f"{name.replace('_', ' ')} score", "Blues", (0, 1), ".2f")
    for axes, text in zip(panels[1], UNITS, strict=False):
        values = _map(heads, lambda row, text=text: row[text][SHOWN][0])
        title = f"cost of {SHOWN} ablation, {text}\n({UNITS[text]})"
        _draw_map(axes, values, title, "Oranges", (0, max(values.max(), 1e-3)), ".3f")
    for axes, text in zip(panels[:, 2], ("repeats", "held-out"), strict=True):
        _draw_scatter(axes, result, text)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _map(heads: list[dict], read: Any) -> np.ndarray:
    shape = (1 + max(row["layer"] for row in heads), 1 + max(row["head"] for row in heads))
    values = np.zeros(shape)
    for row in heads:
        values[row["layer"], row["head"]] = read(row)
    return values


def _draw_map(
    axes: Any, values: np.ndarray, title: str, colours: str, limits: tuple, form: str
) -> None:
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (layer, head), value in np.ndenumerate(values):
        dark = value > 0.6 * limits[1]
        colour = "white" if dark else "#222222"
        axes.text(
            head, layer, f"{value:{form}}", ha="center", va="center", fontsize=8, color=colour
        )
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(values.shape[0]))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(title, fontsize=10)
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _draw_scatter(axes: Any, result: dict, text: str) -> None:
    for kind, colour in COLOURS.items():
        x = [row["induction"][0] for row in result["heads"]]
        y, errors = zip(*(row[text][kind] for row in result["heads"]), strict=True)
        value, _, error = result["correlations"][text][kind]["induction"]
        label = f"{kind}: rank correlation {value:+.2f} ± {error:.2f}"
        style = {"fmt": MARKERS[kind], "markersize": 4.5, "color": colour, "elinewidth": 0.8}
        axes.errorbar(x, y, yerr=errors, label=label, alpha=0.85, **style)
    _name_heads(axes, result["heads"], text)
    axes.axhline(0, color="#777777", linewidth=0.7, zorder=0)
    axes.set_yscale("symlog", linthresh=LINEAR[text])
    axes.set_xlabel("induction score of the head")
    axes.set_ylabel(f"cost ({UNITS[text]}; linear below {LINEAR[text]:g})")
    axes.set_title(f"losing a head, {text}", fontsize=10)
    axes.legend(frameon=False, fontsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)


def _name_heads(axes: Any, heads: list[dict], text: str) -> None:
    """Names beside the outstanding heads: to the right and to the left of them in turns."""
    points = [(row[text][SHOWN][0], row["induction"][0], row) for row in heads]
    named = [p for p in points if p[1] > NAMED_SCORE or p[0] > NAMED_COST[text]]
    for i, (cost, score, row) in enumerate(sorted(named, key=lambda point: point[:2])):
        side = {"ha": "left"} if i % 2 else {"ha": "right"}
        offset = (6 if i % 2 else -6, -3)
        name = f"{row['layer']}.{row['head']}"
        place = {"textcoords": "offset points", "fontsize": 7.5, **side}
        axes.annotate(name, (score, cost), offset, **place)
    axes.set_xlim(-0.06, None)
