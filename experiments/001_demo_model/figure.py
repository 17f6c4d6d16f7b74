"""The loss curve, with the loss at which the model would equal `xz -9e`."""

import math
from pathlib import Path

import numpy as np
from config import Training


def tokens_at(step: int, run: Training) -> int:
    """Tokens seen by the end of a step."""
    seen = 0
    for stage in run.stages:
        done = min(step, stage.steps)
        seen += done * stage.sequences * stage.length
        step -= done
    return seen


def smoothed(values: np.ndarray, width: int = 25) -> np.ndarray:
    """Running mean over up to `width` values around each."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def draw(log: list[dict], run: Training, result: dict, path: Path) -> None:
    """Write the figure. `result` is what `run.py` records."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    millions = np.asarray([tokens_at(row["step"], run) for row in log]) / 1e6
    loss = np.asarray([row["loss"] for row in log])
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(millions, loss, color="#c9d6e8", linewidth=0.6, label="training loss, each step")
    axes.plot(millions, smoothed(loss), color="#1f4e8c", linewidth=1.6, label="mean of 25 steps")
    per_token = result["held_out_bytes_per_token"] * math.log(2)
    held_out = result["held_out"]
    for name, value, style, side in (
        ("xz -9e", held_out["all_xz_bits_per_byte"], "--", "right"),
        ("this model", held_out["all_model_bits_per_byte"], ":", "left"),
    ):
        # Each label on the side where the curve is far from its line.
        x = millions[-1] if side == "right" else millions[-1] / 50
        axes.axhline(value * per_token, color="#444444", linestyle=style, linewidth=1)
        axes.annotate(
            f"held-out text, {name}: {value:.2f} bits per byte",
            (x, value * per_token),
            xytext=(0, 3),
            textcoords="offset points",
            ha=side,
            fontsize=8,
        )
    axes.set_xlabel("training tokens (millions)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(2, 8)
    axes.set_xlim(0, millions[-1])
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
