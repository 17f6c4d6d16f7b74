"""How many times as long XLA's programs take as the kernels, over the rows of a call."""

from collections import defaultdict
from pathlib import Path

KERNELS = ("quantised_matmul", "grouped_matmul", "add_rms_norm", "rope_write", "top_p_sample")
NOT_IN_LABEL = ("rows", "dtype", "kernel")


def draw(result: dict, path: Path) -> None:
    """Write the figure: a panel for each kernel, a line for each shape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = defaultdict(list)
    for row in result["rows"]:
        if "ratio" in row:
            of = row["of"]
            label = ", ".join(str(x) for name, x in of.items() if name not in NOT_IN_LABEL)
            lines[of["kernel"], label].append((of["rows"], row["ratio"]))
    figure, panels = plt.subplots(1, len(KERNELS), figsize=(17, 3.8), layout="constrained")
    for panel, kernel in zip(panels, KERNELS, strict=True):
        panel.axhline(1, color="#444444", linewidth=0.8)
        for (owner, label), points in lines.items():
            if owner == kernel:
                panel.plot(
                    *zip(*sorted(points), strict=True), marker="o", markersize=3, label=label
                )
        panel.set(xscale="log", yscale="log", xlabel="rows", title=kernel)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.lines[1:]:
            panel.legend(frameon=False, fontsize=7)
    panels[0].set_ylabel("time of XLA over time of the kernel")
    note = " (interpreted on a CPU: it says nothing)" if result["interpreted"] else ""
    figure.suptitle(f"{result['device']['kind']}{note}", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
