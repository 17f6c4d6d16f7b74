"""Tokens per second over the batch, a panel for each model."""

from pathlib import Path

COLOURS = {"triton": "#1f4e8c", "mosaic": "#2e8b57", "xla": "#8fb4dc", "transformers": "#c0504d"}


def draw(result: dict, path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in result["rows"] if "seconds" in row]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = plt.subplots(
        1, max(1, len(models)), figsize=(9, 4), layout="constrained", squeeze=False
    )
    for axes, model in zip(panels[0], models, strict=False):
        for by, colour in COLOURS.items():
            mine = sorted(
                (row["batch"], row["batch"] / row["seconds"])
                for row in rows
                if (row["model"], row["by"]) == (model, by)
            )
            if mine:
                axes.plot(*zip(*mine, strict=True), marker="o", color=colour, label=by)
        limit = sorted(
            (row["batch"], row["batch"] * result["limits"]["read"] / row["bytes"])
            for row in rows
            if (row["model"], row["by"]) == (model, "triton")
        )
        if limit:
            axes.plot(*zip(*limit, strict=True), color="#444444", linestyle="--", label="bandwidth")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("batch")
        axes.set_title(model, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("tokens per second")
    panels[0][0].legend(frameon=False, fontsize=8)
    note = " (interpreted on a CPU: it says nothing)" if result["interpreted"] else ""
    figure.suptitle(f"a decode step, {result['device']['kind']}{note}", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)
