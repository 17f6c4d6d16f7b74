"""The loss curve of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ferrum_jax.research.figure import LINES, FigurePath, new_figure, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.research.fit.result import Fit


def plot_fit(fitted: Fit, path: FigurePath) -> Figure:
    """Draw a fit; see `Fit.plot`."""
    figure, axes = new_figure("Fit", 6.4, 3.6)
    ax = axes[0, 0]
    steps = np.arange(len(fitted.losses))
    half = len(steps) // 40
    ax.plot(steps, fitted.losses, color=LINES[5], lw=0.8, label="each step's batch")
    if half:
        label = f"mean of {2 * half + 1} steps"
        ax.plot(steps, _running_mean(fitted.losses, half), color=LINES[0], lw=1.6, label=label)
    if len(fitted.held_out_losses):
        ax.plot(
            fitted.held_out_steps, fitted.held_out_losses, "o-", color=LINES[1], lw=1.2, ms=4,
            label="held out",
        )  # fmt: skip
    ax.set_xlabel("step", fontsize=9)
    ax.set_ylabel(fitted.record.get("loss", "loss"), fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False)
    name = type(fitted.trainable).__name__
    count = sum(x.size for x in fitted.value.values())
    ax.set_title(f"{name}, {count:,} numbers", fontsize=9.5, loc="left")
    return saved(figure, path)


def _running_mean(losses: Float[np.ndarray, " steps"], half: int) -> Float[np.ndarray, " steps"]:
    """Of each loss and `half` on either side; of fewer at the ends."""
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    steps = np.arange(len(losses))
    starts, ends = np.maximum(steps - half, 0), np.minimum(steps + half + 1, len(losses))
    return (sums[ends] - sums[starts]) / (ends - starts)
