"""Divergence by rounding, by part of the model, and how the activations part layer by layer."""

from pathlib import Path
from typing import Any

COLOURS = ("#999999", "#1f4e8c", "#8fb4dc", "#e39b52", "#c0504d")
"""One per rounding of the plan."""
MARKERS = "osD^v"
SHOWN = ("0.1", "1.0", "5.0", "10.0", "25.0", "50.0", "75.0", "90.0", "95.0", "99.0", "99.9")
"""Percentiles of the tokens' divergences."""


def draw(result: dict, path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(11.5, 4.2), layout="constrained")
    _draw_tokens(panels[0], result["rows"])
    _draw_layers(panels[1], result["rows"])
    _draw_parts(panels[2], result)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_tokens(axes: Any, rows: list[dict]) -> None:
    for row, colour, marker in _inexact(rows):
        values = [row["curve"][p] for p in SHOWN]
        style = {"marker": marker, "markersize": 4, "linewidth": 1.4, "color": colour}
        axes.plot(range(len(SHOWN)), values, label=row["rounding"], **style)
        axes.axhline(row["kld"][0], color=colour, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_xticks(range(len(SHOWN)), [f"{float(p):g}" for p in SHOWN], fontsize=8)
    axes.set_xlabel("percentile of tokens (dotted: mean)")
    axes.set_ylabel("KL divergence from float32 (nats)")
    axes.set_title("all matrices rounded", fontsize=10)


def _inexact(rows: list[dict]) -> list[tuple[dict, str, str]]:
    """Rows with colours and markers, without those that change nothing: 0 has no logarithm."""
    styled = zip(rows, COLOURS, MARKERS, strict=True)
    return [(row, colour, marker) for row, colour, marker in styled if row["kld"][0] > 0]


def _draw_layers(axes: Any, rows: list[dict]) -> None:
    for row, colour, marker in _inexact(rows):
        errors = row["activation_errors"]["resid_post"]
        values = [row["activation_errors"]["resid_pre"][0], *errors]
        style = {"marker": marker, "markersize": 4, "linewidth": 1.4, "color": colour}
        axes.plot(range(len(values)), values, label=row["rounding"], **style)
    axes.set_yscale("log")
    layers = len(rows[0]["activation_errors"]["resid_post"])
    axes.set_xticks(range(layers + 1), ["embed", *map(str, range(layers))])
    axes.set_xlabel("behind layer")
    axes.set_ylabel("relative error of the residual stream")
    axes.set_title("where the networks part", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center")


def _draw_parts(axes: Any, result: dict) -> None:
    rows, name = result["parts"], result["config"]["swept"]
    values, errors = zip(*(row["kld"] for row in rows), strict=True)
    kinds = [row["name"] in result["shares"] for row in rows]
    colours = ["#1f4e8c" if kind else "#e39b52" for kind in kinds]
    places = [i + 0.6 * (not kind) for i, kind in enumerate(kinds)]
    axes.barh(places, values, xerr=errors, color=colours, height=0.7, ecolor="#333333")
    axes.set_yticks(places, [row["name"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mean KL divergence (nats)")
    axes.set_title(f"one part rounded ({name})", fontsize=10)
