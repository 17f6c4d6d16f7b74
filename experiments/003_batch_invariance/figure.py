"""Left: shares of equal bits by setting. Right: invariant engines' rates over the plain one's."""

from pathlib import Path
from typing import Any

PLAIN, INVARIANT = "#c0504d", "#1f4e8c"
TILES = ("#8fb4dc", "#1f4e8c", "#0b2545")


def draw(result: dict, path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    dtypes, models = result["config"]["comparison"]["dtypes"], result["config"]["cost"]["models"]
    figure = plt.figure(figsize=(13, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1), wspace=0.04)
    bits = left.subplots(1, len(dtypes), sharey=True)
    for axes, dtype in zip(bits, dtypes, strict=True):
        _draw_bits(axes, result, dtype)
    left.suptitle("tokens whose logprobs have the same bits as in the request alone", fontsize=11)
    handles, labels = bits[0].get_legend_handles_labels()
    left.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    costs = right.subplots(len(models), 1, sharex=False)
    for axes, model in zip(costs, models, strict=True):
        _draw_cost(axes, result, model)
    right.suptitle("tokens per second, invariant / plain", fontsize=11)
    handles, labels = costs[0].get_legend_handles_labels()
    right.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    for axes in (*bits, *costs):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_bits(axes: Any, result: dict, dtype: str) -> None:
    rows = [row for row in result["rows"] if row["dtype"] == dtype]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    for invariant, colour, offset in ((False, PLAIN, -0.2), (True, INVARIANT, 0.2)):
        mine = {r["setting"]: r for r in rows if r["batch_invariant"] == invariant}
        shares = [100 * mine[setting]["equal_fraction"] for setting in settings]
        places = [place + offset for place in range(len(settings))]
        label = f"batch_invariant={invariant}"
        axes.barh(places, shares, height=0.38, color=colour, label=label)
        for place, share in zip(places, shares, strict=True):
            axes.text(share + 1, place, f"{share:.3g}", va="center", fontsize=6.5, color=colour)
    axes.set_yticks(range(len(settings)), settings, fontsize=8)
    axes.set_ylim(len(settings) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel(f"{dtype} (%)")


def _draw_cost(axes: Any, result: dict, model: str) -> None:
    sizes = result["config"]["cost"]["tile_rows"]
    rows = [row for row in result["costs"] if row["model"] == model]
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    for i, (size, colour) in enumerate(zip(sizes, TILES, strict=True)):
        mine = [r for w in workloads for r in rows if (r["workload"], r["tile_rows"]) == (w, size)]
        ratios = [row["rate_over_plain"] for row in mine]
        places = [place + 0.28 * (i - 1) for place in range(len(workloads))]
        axes.bar(places, ratios, 0.25, color=colour, label=f"tiles of {size}")
        for place, ratio in zip(places, ratios, strict=True):
            axes.text(place, ratio + 0.02, f"{ratio:.2f}", ha="center", fontsize=7)
    axes.axhline(1, color="#444444", linestyle="--", linewidth=1, zorder=0)
    axes.set_xticks(range(len(workloads)), [w.replace(", ", "\n") for w in workloads], fontsize=8)
    axes.set_ylim(0, 1.3)
    axes.set_title(f"{model}, float32", fontsize=9)
