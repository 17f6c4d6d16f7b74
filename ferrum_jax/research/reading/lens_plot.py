"""The table of a lens: layers x positions with token texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ferrum_jax.research.figure import (
    SEQUENTIAL,
    FigurePath,
    add_scale,
    drawable,
    heat_map,
    name_layers,
    name_tokens,
    new_figure,
    saved,
    write_cells,
)
from ferrum_jax.types import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ferrum_jax.research.reading.lens import LensReading

FRAME = "#d55e00"
ROOM = 9
"""Characters that fit a cell."""


def plot_lens(reading: LensReading, path: FigurePath, max_positions: int) -> Figure:
    """Draw a reading; see `LensReading.plot`."""
    if max_positions < 1:
        raise RequestError(f"max_positions is {max_positions}; draw at least 1")
    count = len(reading.tokens)
    start = max(0, count - max_positions)
    shown, layers = count - start, len(reading.layers)
    figure, axes = new_figure("LensReading", 2.6 + 0.72 * shown, 2.0 + 0.27 * layers)
    ax = axes[0, 0]
    image = heat_map(ax, reading.top_probabilities[:, start:, 0], 0, 1, SEQUENTIAL)
    write_cells(image, [[drawable(c[0], ROOM) for c in row[start:]] for row in reading.top_tokens])
    _frame_hits(ax, reading, start)
    name_layers(ax, reading.layers)
    name_tokens(ax, "x", reading.tokens[start:], room=ROOM)
    ax.set_xlabel("token that was read", fontsize=9)
    _name_next(ax, reading.tokens[start + 1 :], shown)
    add_scale(figure, image, ax, "probability of the top")
    span = f", the last {shown} of {count} positions" if start else ""
    title = f"{reading.lens} of {reading.site}{span}\nframed: the likeliest token follows"
    figure.suptitle(title, fontsize=10.5)
    return saved(figure, path)


def _frame_hits(ax: Axes, reading: LensReading, start: int) -> None:
    from matplotlib.patches import Rectangle

    for y, row in enumerate(reading.next_rank[:, start:]):
        for x, rank in enumerate(row):
            if rank == 1:
                corner = (x - 0.46, y - 0.44)
                ax.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, edgecolor=FRAME, lw=1.4))


def _name_next(ax: Axes, tokens: tuple[str, ...], shown: int) -> None:
    top = ax.secondary_xaxis("top")
    top.tick_params(length=0)
    top.spines[:].set_visible(False)
    name_tokens(top, "x", (*tokens, "")[:shown], room=ROOM)  # type: ignore[arg-type]
    top.set_xlabel("token that follows", fontsize=9)
