"""What the figures of this package share: a page without a display, heat maps, token labels."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Num

from ferrum_jax.runtime.page import new_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

FigurePath = str | PathLike[str] | None
SEQUENTIAL = "cividis"
DIVERGING = "RdBu_r"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours of lines, told apart by colour-blind readers (Okabe and Ito 2008)."""
GREY = "#8a8a8a"
MAX_LABELLED = 48
"""Tokens along an axis that are still legible when each is named."""
MAX_NUMBERED = 20
"""Columns that are still legible when each has its number."""
LONGEST_LABEL = 12
NO_GLYPH = "\N{WHITE SQUARE}"
OPEN_BOX = "\N{OPEN BOX}"
LOWER_BLOCK = "\N{LOWER ONE EIGHTH BLOCK}"
"""How sentencepiece spells a space; drawn as an open box, which reads well when it is turned."""


def new_figure(
    who: str, width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of a size in inches and its axes `[rows, columns]`; no display is needed.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    figure = new_page(who, width, height)
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def saved(figure: Figure, path: FigurePath) -> Figure:
    """The figure, written to a file if a path is given; its ending names the format."""
    if path is not None:
        figure.savefig(path, dpi=140)
    return figure


def heat_map(
    ax: Axes, values: Num[np.ndarray, "rows columns"], low: float, high: float, colours: str
) -> AxesImage:
    """A cell for each value, the first row lowest; cells that are nan stay blank."""
    image = ax.imshow(
        values, cmap=colours, vmin=low, vmax=high, aspect="auto", origin="lower", rasterized=True
    )
    ax.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    if max(values.shape) <= MAX_LABELLED:
        ax.grid(which="minor", color="white", linewidth=0.8)
    ax.tick_params(which="both", length=0, labelsize=8)
    ax.spines[:].set_visible(False)
    return image


def write_cells(image: AxesImage, texts: Sequence[Sequence[str]], size: float = 7.5) -> None:
    """A text in each cell of a heat map, dark or light, whichever its colour asks for."""
    ax, values = image.axes, np.ma.filled(image.get_array(), np.nan)  # type: ignore[arg-type]
    for y, row in enumerate(texts):
        for x, text in enumerate(row):
            if text:
                red, green, blue, _ = image.cmap(image.norm(values[y, x]))  # type: ignore[misc]
                is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                colour = "white" if is_dark else "#1a1a1a"
                ax.text(
                    x, y, text, ha="center", va="center", size=size, color=colour, parse_math=False
                )


def name_layers(ax: Axes, layers: Sequence[int]) -> None:
    """Layer numbers along the rows of a heat map, thinned where there are many."""
    every = -(-len(layers) // MAX_LABELLED)
    ax.set_yticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    ax.set_ylabel("layer", fontsize=9)


def name_columns(ax: Axes, labels: Sequence[str]) -> None:
    """Names along the columns of a heat map; where there are many, numbers are thinned."""
    every = -(-len(labels) // MAX_NUMBERED)
    shown = [i for i, label in enumerate(labels) if i % every == 0 or not label.isdigit()]
    turned = every > 1 and len(shown) > len(range(0, len(labels), every))
    ax.set_xticks(shown, [labels[i] for i in shown], rotation=90 if turned else 0)


def name_tokens(
    ax: Axes, axis: str, tokens: Sequence[str], *, room: int = 2, size: float = 8
) -> None:
    """Token texts along an axis (`x` or `y`); positions stay where the tokens are many.

    Along `x` they are turned unless each has at most `room` characters.
    """
    if len(tokens) > MAX_LABELLED:
        return
    labels = [drawable(token) for token in tokens]
    turned = axis == "x" and max(map(len, labels), default=0) > room
    set_ticks = ax.set_xticks if axis == "x" else ax.set_yticks
    made = set_ticks(range(len(labels)), labels, rotation=90 if turned else 0, fontsize=size)
    for tick in made:  # a `$` in a token starts no formula
        tick.label1.set_parse_math(False)
        tick.label2.set_parse_math(False)


def drawable(token: str, longest: int = LONGEST_LABEL) -> str:
    """A token as a label: on one line, cut if long, a square for what the font lacks."""
    escaped = {"\n": "\\n", "\r": "\\r", "\t": "\\t", " ": OPEN_BOX, LOWER_BLOCK: OPEN_BOX}
    font = _default_font()
    text = "".join(
        escaped.get(c, c if font.get_char_index(ord(c)) and c.isprintable() else NO_GLYPH)
        for c in token
    )
    return text if len(text) <= longest else text[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _default_font() -> Any:
    """The font of labels; matplotlib keeps it open for the next call."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties()))


def add_scale(figure: Figure, image: AxesImage, axes: Any, label: str) -> None:
    """A colour bar beside the axes."""
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.015)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
