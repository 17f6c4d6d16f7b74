"""How often the divergence from the float32 cache exceeds a size, one line per dtype."""

from pathlib import Path

import numpy as np
from config import Comparison

COLOURS = ("#000000", "#8fb4dc", "#1f4e8c", "#c0504d", "#e39b52")
"""One per dtype of the plan; the reference's is not drawn."""
FLOOR = 1e-10
"""nats; below lies the rounding of the float32 logits themselves"""


def draw(plan: Comparison, rows: list[dict], kls: list[np.ndarray], path: Path) -> None:
    """Write the figure. `kls` holds every token's divergence, per dtype."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for row, kl, colour in list(zip(rows, kls, COLOURS, strict=True))[1:]:
        values = np.sort(np.maximum(kl, FLOOR))
        share = 1 - np.arange(len(values)) / len(values)
        name = f"{row['kv_dtype']}, {row['bytes_per_token']:,} bytes a token"
        axes.plot(values, share, color=colour, linewidth=1.6, label=name)
        axes.plot(row["mean_kl"][0], np.mean(kl > row["mean_kl"][0]), "o", color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"KL divergence from the {plan.kv_dtypes[0]} cache (nats); dot: mean")
    axes.set_ylabel("share of tokens above")
    axes.set_xlim(FLOOR * 10, None)
    axes.set_ylim(1 / len(kls[0]), 1.3)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
