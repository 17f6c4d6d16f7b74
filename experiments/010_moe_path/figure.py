"""Times of all paths by the number of tokens, a panel for each number of experts."""

from pathlib import Path

LINES = {"ragged_dot": "#c0504d", "gathered": "#9a8f5a", "chosen": "#1f4e8c"}
TILES = "#8fb4dc"


def draw(rows: list[dict], path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = list(dict.fromkeys(row["experts"] for row in rows))
    figure, panels = plt.subplots(
        1, len(counts), figsize=(9, 3.6), sharey=True, layout="constrained"
    )
    for axes, count in zip(panels, counts, strict=True):
        mine = [row for row in rows if row["experts"] == count]
        for row in mine:
            tiles = [t for name, t in row["milliseconds"].items() if name.startswith("tiles")]
            axes.plot([row["tokens"]] * len(tiles), tiles, "o", color=TILES, markersize=3)
        for name, colour in LINES.items():
            there = [row for row in mine if name in row["milliseconds"]]
            tokens = [row["tokens"] for row in there]
            times = [row["milliseconds"][name] for row in there]
            axes.plot(tokens, times, "-o", color=colour, markersize=4, label=name)
        axes.plot([], [], "o", color=TILES, markersize=3, label="tiles of 1 to 64 rows")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(f"{count} experts, {mine[0]['experts_per_token']} a token", fontsize=10)
        axes.set_xlabel("tokens")
        axes.set_xticks([row["tokens"] for row in mine], [str(row["tokens"]) for row in mine])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("milliseconds")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    figure.savefig(path, dpi=150)
    plt.close(figure)
