"""A roofline: what the kernels reach over how much they compute for each byte."""

from pathlib import Path

COLOURS = {
    ("decode", "triton"): "#1f4e8c",
    ("decode", "mosaic"): "#2e8b57",
    ("prefill", "triton"): "#c0504d",
    ("prefill", "mosaic"): "#e69138",
}


def draw(result: dict, path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    limits = next(row for row in result["rows"] if row["what"] == "limits")
    rows = [row for row in result["rows"] if "of_bandwidth" in row and not row["tuning"]]
    figure, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
    reach = np.geomspace(0.5, 1e4, 200)
    roof = np.minimum(reach * limits["bandwidth"], limits["matmul"])
    axes.plot(reach, roof / 1e12, color="#444444", linewidth=1.2, label="measured limits")
    for (what, by), colour in COLOURS.items():
        mine = [row for row in rows if (row["what"], row["of"]["implementation"]) == (what, by)]
        x = [row["flops"] / row["bytes"] for row in mine]
        y = [row["flops"] / row["seconds"] / 1e12 for row in mine]
        axes.scatter(x, y, s=18, color=colour, label=f"{what}, {by}", zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("floating-point operations per byte that must be moved")
    axes.set_ylabel("TFLOP/s")
    note = " (interpreted on a CPU: it says nothing)" if result["interpreted"] else ""
    axes.set_title(f"{result['device']['kind']}{note}", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
