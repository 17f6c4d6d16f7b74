"""`cost.png`: CPU time of a step by running requests. `simulation.png`: what the workloads saw."""

from pathlib import Path
from typing import Any

COLOURS = {
    "fcfs": "#1f4e8c",
    "priority": "#c0504d",
    "fair_share": "#e39b52",
    "sjf": "#5a9a5a",
    "round_robin": "#8064a2",
    "lru": "#1f4e8c",
    "fifo": "#c0504d",
    "clock": "#5a9a5a",
}
GREY = "#555555"


def draw(result: dict, folder: Path) -> None:
    """Write both figures into a folder."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(12, 3.6), sharex=True, sharey=True)
    for panel, situation in zip(axes, _situations(result), strict=True):
        _draw_cost(panel, result, situation)
    _finish_cost(axes, result)
    figure.tight_layout()
    figure.savefig(folder / "cost.png", dpi=150)
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.8))
    for panel, workload in zip(axes[0], result["workloads"], strict=True):
        _draw_series(panel, workload)
    axes[0][0].set_ylabel("requests")
    axes[0][0].legend(frameon=False, fontsize=8, loc="upper left")
    _draw_first_token(axes[1][0], result["policies"])
    _draw_clients(axes[1][1], result["policies"])
    _draw_hit_rate(axes[1][2], result["evictions"])
    for panel in (*axes[0], axes[1][2]):
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(folder / "simulation.png", dpi=150)
    plt.close("all")


def _situations(result: dict) -> list[str]:
    return list(dict.fromkeys(row["situation"] for row in result["steady"]))


def _draw_cost(axes: Any, result: dict, situation: str) -> None:
    rows = [row for row in result["steady"] if row["situation"] == situation]
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        axes.plot(
            [row["running"] for row in mine],
            [row["ms_median"] for row in mine],
            color=COLOURS[policy],
            marker="o",
            markersize=3,
            linewidth=1.3,
            label=policy.replace("_", " "),
        )
    axes.set_title(situation, fontsize=10)


def _finish_cost(axes: Any, result: dict) -> None:
    """The limit, and what grows in proportion from it."""
    limit, at = 1e3 * result["config"]["limit_seconds"], result["config"]["limit_rows"]
    sizes = sorted({row["running"] for row in result["steady"]})
    for panel in axes:
        panel.plot(sizes, [limit * n / at for n in sizes], "--", color=GREY, linewidth=1)
        panel.plot([at], [limit], "D", color="black", markersize=5)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=60, fontsize=8)
        panel.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        panel.set_xlabel("running requests")
        panel.grid(color="#eeeeee")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].annotate(
        f"limit: {limit:g} ms at {at:,};\ndashed: in proportion",
        (at, limit),
        xytext=(-14, 26),
        textcoords="offset points",
        fontsize=8,
        ha="right",
        arrowprops={"arrowstyle": "-", "color": GREY},
    )
    axes[0].set_ylabel("CPU time of schedule() (ms a step)")
    axes[3].legend(frameon=False, fontsize=8, loc="upper left")


def _draw_series(axes: Any, workload: dict) -> None:
    series = workload["series"]
    axes.fill_between(series["start"], series["waiting"], color="#e8b4b0", label="waiting")
    axes.plot(series["start"], series["running"], color="#1f4e8c", linewidth=1, label="running")
    axes.set_title(f"{workload['name']}: {workload['requests']:,} requests", fontsize=10)
    axes.set_xlabel("simulated time (s)")
    axes.set_ylim(0, None)
    axes.set_xlim(0, series["start"][-1])


def _draw_first_token(axes: Any, rows: list[dict]) -> None:
    for row in rows:
        axes.plot(
            row["first_token_percentiles"],
            range(101),
            color=COLOURS[row["policy"]],
            linestyle="--" if row["preemption"] == "swap" else "-",
            linewidth=1.4,
            label=_label(row),
        )
    axes.set_xscale("log")
    axes.set_xlim(0.01, None)
    axes.set_ylim(0, 100)
    axes.set_xlabel("time to first token (simulated s)")
    axes.set_ylabel("requests below (%)")
    axes.set_title("bursts on 64 slots, by policy", fontsize=10)
    axes.legend(frameon=False, fontsize=7, loc="lower right")


def _draw_clients(axes: Any, rows: list[dict]) -> None:
    places = range(len(rows))
    for key, colour, size, label in (
        ("first_token_p99_heavy", "#c0504d", 9, "client with the most requests"),
        ("first_token_p99_light", "#1f4e8c", 5, "four clients with the fewest"),
    ):
        seconds = [row[key] for row in rows]
        axes.plot(seconds, places, "o", color=colour, markersize=size, label=label)
    for place, row in zip(places, rows, strict=True):
        ends = (row["first_token_p99_heavy"], row["first_token_p99_light"])
        axes.plot(ends, (place, place), color="#bbbbbb", linewidth=1, zorder=0)
    axes.set_yticks(places, [_label(row) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -1.4)
    axes.set_xlim(0, None)
    axes.set_xlabel("99th percentile of the time to first token (s)")
    axes.set_title("who waits in the bursts", fontsize=10)
    axes.legend(frameon=False, fontsize=7, loc="upper left", ncols=1)


def _draw_hit_rate(axes: Any, rows: list[dict]) -> None:
    *limited, unlimited = rows
    for name in dict.fromkeys(row["eviction"] for row in limited):
        mine = [row for row in limited if row["eviction"] == name]
        axes.plot(
            [row["num_pages"] for row in mine],
            [100 * row["hit_rate"] for row in mine],
            color=COLOURS[name],
            marker="o",
            markersize=3,
            label=name,
        )
    axes.axhline(100 * unlimited["hit_rate"], color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        "no eviction",
        (limited[0]["num_pages"], 100 * unlimited["hit_rate"]),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
    )
    axes.set_ylim(0, 100)
    axes.set_xlim(0, None)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("KV pages of 16 tokens")
    axes.set_ylabel("prompt tokens found (%)")
    axes.set_title("shared prefixes, by eviction", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _label(row: dict) -> str:
    swap = ", swap" if row["preemption"] == "swap" else ""
    return row["policy"].replace("_", " ") + swap
