"""Throughput with edits and captures over that without: every turn, and the medians."""

from pathlib import Path
from typing import Any

DOT, MEDIAN, BAR = "#8fb4dc", "#1f4e8c", "#c0504d"
BARS = {"decode": 0.8, "score": 0.8, "capture resid_post": 0.9}
"""What each job is to reach."""


def draw(rows: list[dict], path: Path) -> None:
    """Write the figure: a panel per job."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    jobs = [[r for r in rows if r["job"] == job] for job in BARS]
    figure, panels = plt.subplots(
        1,
        len(jobs),
        figsize=(9, 3.8),
        sharey=True,
        layout="constrained",
        width_ratios=[len(job) + 0.7 for job in jobs],
    )
    for axes, job in zip(panels, jobs, strict=True):
        _draw_job(axes, job)
    panels[0].set_ylabel("throughput / throughput of the plain batch")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    top = max(ratio for row in rows for ratio in (*row["ratios"], 1.15))
    panels[0].set_ylim(0, 1.05 * top)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_job(axes: Any, rows: list[dict]) -> None:
    for place, row in enumerate(rows):
        first = place == 0
        places = [place] * len(row["ratios"])
        axes.plot(places, row["ratios"], "o", color=DOT, markersize=4, label=first * "one turn")
        line = [place - 0.3, place + 0.3]
        axes.plot(line, [row["ratio"]] * 2, color=MEDIAN, linewidth=2, label=first * "median")
        axes.plot(
            place, row["cpu_ratio"], "x", color="black", label=first * "median, per CPU second"
        )
        axes.text(place, 0.05, f"{row['ratio']:.2f}", ha="center", fontsize=8, color=MEDIAN)
    axes.axhline(BARS[rows[0]["job"]], color=BAR, linestyle="--", linewidth=1, label="bar")
    axes.axhline(1, color="#777777", linewidth=0.7, zorder=0)
    axes.set_xticks(range(len(rows)), [row["kind"].replace(" ", "\n") for row in rows], fontsize=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_title(rows[0]["job"], fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
