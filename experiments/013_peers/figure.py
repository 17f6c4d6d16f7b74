"""ferrum_jax's rate over each peer's, by what was measured; a point a turn."""

from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {
    "transformers, sdpa": "#c0504d",
    "transformers, eager": "#d8a09d",
    "llama.cpp": "#1f4e8c",
}
ROUNDED = {"q8_0": "int8"}
"""Whose dtype stands beside which of ours."""


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    workers = [tuple(worker) for worker in result["config"]["workers"]]
    dtypes = list(dict.fromkeys(ROUNDED.get(dtype, dtype) for _, dtype in workers))
    kinds = ["prefill", *(f"decode {batch}" for batch in result["config"]["batches"])]
    figure, panels = plt.subplots(
        1, len(dtypes), figsize=(9, 3.4), sharey=True, layout="constrained"
    )
    for axes, dtype in zip(panels, dtypes, strict=True):
        here = [w for w in workers if ROUNDED.get(w[1], w[1]) == dtype and w[0] != "ferrum_jax"]
        axes.axhline(1, color="0.6", linewidth=0.8)
        for offset, (engine, theirs) in enumerate(here):
            points = ratios(result, dtype, engine, theirs)
            for place, kind in enumerate(kinds):
                values = points.get(kind, [])
                if not values:
                    continue
                x = place + 0.22 * (offset - (len(here) - 1) / 2)
                axes.plot([x] * len(values), values, "o", color=COLOURS[engine], alpha=0.3, ms=3)
                axes.plot(x, np.median(values), "_", color=COLOURS[engine], ms=12, mew=2)
        axes.set_title(dtype if dtype != "int8" else "int8 (llama.cpp: q8_0)", fontsize=10)
        axes.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", fontsize=8)
        axes.set_yscale("log", base=2)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("ferrum_jax's tokens/s over the other's")
    for engine, colour in COLOURS.items():
        panels[0].plot([], [], "_", color=colour, mew=2, ms=12, label=engine)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def ratios(result: dict[str, Any], dtype: str, engine: str, theirs: str) -> dict[str, list[float]]:
    """Of the runs of one turn, by what was measured."""
    found: dict[str, list[float]] = {}
    for turn in range(result["config"]["turns"]):
        pair = [
            run
            for wanted in (("ferrum_jax", dtype), (engine, theirs))
            for run in result["runs"]
            if run["turn"] == turn
            and (run["engine"], run["dtype"]) == wanted
            and "error" not in run
        ]
        if len(pair) < 2:
            continue
        own, other = pair
        found.setdefault("prefill", []).append(own["prefill"] / other["prefill"])
        for batch, value in own["decode"].items():
            found.setdefault(f"decode {batch}", []).append(value / other["decode"][batch])
    return found
