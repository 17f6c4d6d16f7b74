"""What a format costs in divergence, by the bytes that are left."""

from pathlib import Path
from typing import Any


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for row in result["rows"]:
        value, error = row["kld"]
        if value <= 0:
            continue  # The demo model is stored in bfloat16: nothing is rounded.
        share = row["bytes"] / result["bytes"]
        axes.errorbar(share, value, 2 * error, fmt="o", color="#1f4e8c", capsize=3)
        axes.annotate(
            row["format"], (share, value), (7, 0), textcoords="offset points", va="center"
        )
    axes.set_yscale("log")
    axes.set_xlabel("bytes of all weights, of float32's")
    axes.set_ylabel("KL divergence from float32 (nats)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
