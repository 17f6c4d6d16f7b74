"""What a format costs in divergence, by the bytes that are left."""

from pathlib import Path
from typing import Any

STYLES = {"": ("o", "#1f4e8c"), "GPTQ": ("v", "#b3541e"), "AWQ": ("s", "#4f7942")}
"""Marker and colour of each way to choose the values."""


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for method, (marker, color) in STYLES.items():
        rows = [row for row in result["rows"] if row["format"].partition(", ")[2] == method]
        shares = [row["bytes"] / result["bytes"] for row in rows]
        values, errors = zip(*(row["kld"] for row in rows), strict=True)
        axes.errorbar(
            shares,
            values,
            [2 * error for error in errors],
            fmt=marker,
            color=color,
            fillstyle="none",
            capsize=3,
            label=method or "to nearest",
        )
        for row, share, value in zip(rows, shares, values, strict=True):
            if not method:
                axes.annotate(
                    row["format"], (share, value), (8, 6), textcoords="offset points", va="center"
                )
    axes.legend(frameon=False)
    axes.set_yscale("log")
    axes.set_xlim(0.3, 0.54)
    axes.set_xlabel("bytes of all weights, of float32's")
    axes.set_ylabel("KL divergence from float32 (nats)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
