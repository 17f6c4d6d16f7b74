"""Speed of each way to draft, in shares of the engine without drafts."""

from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {"n-gram": "#e39b52", "draft model": "#1f4e8c"}


def draw(result: dict, path: Path) -> None:
    """Write the figure: a panel per text, a colour per source, filled for one sequence at a time
    and hollow for the larger batch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["rows"]
    texts = list(dict.fromkeys(row["workload"] for row in rows))
    figure, panels = plt.subplots(
        1, len(texts), figsize=(12, 4.2), sharey=True, layout="constrained"
    )
    for axes, text in zip(panels, texts, strict=True):
        _draw_text(axes, [row for row in rows if row["workload"] == text])
        axes.set_title(text, fontsize=10)
    panels[0].set_ylabel("speed, without drafts = 1")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_text(axes: Any, rows: list[dict]) -> None:
    batches = sorted({row["batch"] for row in rows})
    names = [row["variant"] for row in rows if row["variant"] != "none"]
    lengths = list(dict.fromkeys(name.split(", ")[1] for name in names))
    places = np.arange(len(lengths))
    shift = iter(np.linspace(-0.18, 0.18, len(COLOURS) * len(batches)))
    for source, colour in COLOURS.items():
        for batch in batches:
            found = {r["variant"]: r["speed"] for r in rows if r["batch"] == batch}
            speeds = np.asarray([found[f"{source}, {length}"] for length in lengths])
            middle, low, high = speeds.T
            axes.errorbar(
                places + next(shift),
                middle,
                yerr=(middle - low, high - middle),
                fmt="o",
                color=colour,
                markerfacecolor=colour if batch == batches[0] else "white",
                label=f"{source}, batch {batch}",
            )
    axes.axhline(1, color="#999999", linewidth=0.8)
    axes.set_xticks(places, lengths)
    axes.set_xlabel("tokens of a draft")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
