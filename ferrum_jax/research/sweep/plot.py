"""The picture of a sweep: bars with error bars, or a heat map where a grid has two axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ferrum_jax.research.figure import (
    DIVERGING,
    GREY,
    LINES,
    MAX_LABELLED,
    FigurePath,
    add_scale,
    heat_map,
    name_columns,
    new_figure,
    saved,
    write_cells,
)
from ferrum_jax.research.sweep.text import metric_text, with_error
from ferrum_jax.types import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from ferrum_jax.research.sweep.table import SweepRow, SweepTable

CERTAIN = 2.0
"""Standard errors beyond which a cell's number is written."""
STANDS_OUT = 3.0
"""Times the 90th percentile: larger differences saturate the colours, so that the rest shows."""
MOST_WRITTEN = 24
"""Columns of a heat map whose cells have room for a number."""
MOST_DECIMALS = 4
"""Of such a number; smaller ones are written as powers of ten."""
LONGEST_NAME = 60


def plot_table(table: SweepTable, path: FigurePath) -> Figure:
    """Draw a table; see `SweepTable.plot`."""
    shown = list(table.rows[1:])
    if not any(math.isfinite(row.difference) for row in shown):
        raise RequestError("no variant but the baseline has a value; there is nothing to draw")
    draw = _draw_heat_map if len(table.axes) == 2 else _draw_bars
    return saved(draw(table, shown), path)


def _draw_bars(table: SweepTable, rows: list[SweepRow]) -> Figure:
    height = 1.5 + min(0.26 * len(rows), 40)
    figure, axes = new_figure("SweepTable", 8.5, height)
    ax, places = axes[0, 0], range(len(rows))
    bars = {"color": LINES[0], "ecolor": "#1a1a1a", "error_kw": {"elinewidth": 1, "capsize": 2}}
    errors = np.nan_to_num([row.difference_error for row in rows])
    ax.barh(places, [row.difference for row in rows], xerr=errors, height=0.7, **bars)
    ax.axvline(0, color="#1a1a1a", linewidth=0.8)
    ax.set_yticks(places, [_shortened(row.name) for row in rows], fontsize=8, parse_math=False)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    _write_beside(ax, rows)
    ax.margins(x=0.08)
    ax.set_xlabel(_difference_label(table), fontsize=9)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(_title(table, "bars: ± 1 standard error"), fontsize=10.5)
    return figure


def _write_beside(ax: Axes, rows: list[SweepRow]) -> None:
    """Each bar's number in a column of its own: a long bar makes the others' lengths unreadable."""
    for y, row in enumerate(rows):
        failed = row.failure is not None
        text = "failed" if failed else with_error(row.difference, row.difference_error, "+")
        ax.annotate(
            text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8,
            color=GREY if failed else "#1a1a1a",
        )  # fmt: skip


def _draw_heat_map(table: SweepTable, rows: list[SweepRow]) -> Figure:
    (down, lines), (across, columns) = table.axes.items()
    by_key = {row.key: row for row in rows}
    found = [[by_key.get((y, x)) for x in columns] for y in lines]
    values = np.array([[math.nan if r is None else r.difference for r in line] for line in found])
    limit, beyond = _limit(values)
    wide, high = (0.62, 0.34) if len(columns) <= MOST_WRITTEN else (0.25, 0.25)
    width, height = wide * min(len(columns), MAX_LABELLED), high * min(len(lines), MAX_LABELLED)
    figure, axes = new_figure("SweepTable", 2.6 + max(width, 3.2), 1.9 + max(height, 1.4))
    ax = axes[0, 0]
    image = heat_map(ax, values, -limit, limit, DIVERGING)
    if beyond:
        image.cmap.colorbar_extend = "both"  # type: ignore[union-attr]
    note = _write_differences(image, found, limit)
    _name_lines(ax, [str(value) for value in lines])
    name_columns(ax, [str(value) for value in columns])
    ax.set_ylabel(down, fontsize=9)
    ax.set_xlabel(across, fontsize=9)
    add_scale(figure, image, ax, _difference_label(table))
    figure.suptitle(_title(table, note), fontsize=10.5)
    return figure


def _limit(values: np.ndarray) -> tuple[float, bool]:
    """The difference at the end of the colours, and whether some lie beyond it."""
    sizes = np.abs(values[np.isfinite(values)])
    most = float(sizes.max())
    usual = STANDS_OUT * float(np.quantile(sizes, 0.9))
    if 0 < usual < most:
        return usual, True
    return most or 1.0, False


def _write_differences(image: AxesImage, found: list[list[SweepRow | None]], limit: float) -> str:
    """Numbers where they are sure; gives what the title says about them."""
    if max(map(len, found)) > MOST_WRITTEN:
        return ""
    decimals = max(0, 2 - math.ceil(math.log10(limit)))
    form = f"+.{decimals}f" if decimals <= MOST_DECIMALS else "+.0e"
    write_cells(image, [[_cell(row, form) for row in line] for line in found], size=7)
    for y, line in enumerate(found):
        for x, row in enumerate(line):
            if row is not None and row.failure is not None:
                image.axes.text(x, y, "failed", ha="center", va="center", size=7, color=GREY)
    errors = [row.difference_error for line in found for row in line if row is not None]
    if not np.isfinite(errors).any():
        return ""
    return f"numbers: beyond {CERTAIN:g} standard errors"


def _cell(row: SweepRow | None, form: str) -> str:
    if row is None or row.failure is not None:
        return ""
    sure = not abs(row.difference) <= CERTAIN * row.difference_error
    return f"{row.difference:{form}}" if sure else ""


def _name_lines(ax: Axes, names: list[str]) -> None:
    every = -(-len(names) // MAX_LABELLED)
    ax.set_yticks(range(0, len(names), every), names[::every])


def _difference_label(table: SweepTable) -> str:
    return f"change of {metric_text(table)} from {table.baseline.name}"


def _title(table: SweepTable, note: str) -> str:
    base = table.baseline
    count = f"{base.num_documents:,} document{'' if base.num_documents == 1 else 's'}"
    value = with_error(base.value, base.error)
    lines = f"{base.name}: {metric_text(table)} {value}, {count}"
    return f"{lines}\n{note}" if note else lines


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
