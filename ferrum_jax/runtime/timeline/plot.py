"""The picture of a timeline, drawn with matplotlib and no display."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from ferrum_jax.runtime.page import new_page
from ferrum_jax.runtime.timeline.layout import KINDS, Bar, Column, lay_out, make_columns
from ferrum_jax.runtime.timeline.steps import (
    TimelineStep,
    device_spans,
    sequence_label,
    sequence_order,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: dict[str, str] = dict(zip(KINDS, ("#3b75af", "#f0a04b", "#7bb579"), strict=True))
MARKS: dict[str, tuple[Any, str, float]] = {
    "preempted, to recompute": ("X", "#c62828", 1.0),
    "preempted, swapped out": ("X", "#7b1fa2", 1.0),
    "resumed": ([(0, -1), (0, 1), (1.4, 0)], "#222222", 2.4),
}
"""Marker, colour and relative area; the triangle's left side stands at the time that it marks."""
WIDTH = 13.0
"""Of the figure, in inches."""


def plot_steps(
    steps: tuple[TimelineStep, ...],
    path: str | PathLike[str] | None,
    *,
    max_rows: int,
    note: str,
) -> Figure:
    """Draw steps into a figure; see `Timeline.plot`. `note` is appended to the title."""
    sequences = sequence_order(steps)
    shown = sequences[:max_rows]
    shown_steps = _steps_of(steps, set(shown))
    spans = device_spans(shown_steps)
    seconds = spans[-1][1] if spans else 0.0
    scale, unit = (1.0, "s") if seconds >= 2 else (1e3, "ms")
    columns = make_columns(shown_steps, spans, scale)
    figure, (rows, tokens, pages, counts) = _figure(len(shown))
    _draw_rows(rows, columns, shown)
    _draw_tokens(tokens, columns)
    _draw_pages(pages, columns)
    _draw_counts(counts, columns)
    title = [_summary(steps, sequences)]
    if len(shown) < len(sequences):
        title.append(f"the first {len(shown)} and their {_counted(len(shown_steps), 'step')} shown")
    rows.set_title("; ".join([*title, note] if note else title), loc="left", fontsize=11)
    counts.set_xlim(0, seconds * scale or 1)
    counts.set_xlabel(f"time since the first step [{unit}]")
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _figure(num_rows: int) -> tuple[Figure, list[Axes]]:
    row = min(0.32, max(0.18, 6 / max(num_rows, 1)))
    heights = [max(1.6, row * num_rows), 1.2, 1.0, 1.0]
    figure = new_page("Timeline", WIDTH, sum(heights) + 1.4)
    axes = figure.subplots(4, 1, sharex=True, height_ratios=heights)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, list(axes)


def _steps_of(
    steps: tuple[TimelineStep, ...], sequences: set[tuple[int, int]]
) -> tuple[TimelineStep, ...]:
    """The steps up to the last one that runs one of the sequences."""
    for last in range(len(steps) - 1, -1, -1):
        if any((chunk.request_id, chunk.index) in sequences for chunk in steps[last].chunks):
            return steps[: last + 1]
    return ()


def _summary(steps: tuple[TimelineStep, ...], sequences: list[tuple[int, int]]) -> str:
    preemptions = sum(len(step.preempted) for step in steps)
    spans = device_spans(steps)
    return (
        f"{_counted(len(sequences), 'sequence')} in {_counted(len(steps), 'step')}, "
        f"{spans[-1][1] if spans else 0:,.3g} s, {_counted(preemptions, 'preemption')}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _draw_rows(ax: Axes, columns: list[Column], sequences: list[tuple[int, int]]) -> None:
    from matplotlib.collections import LineCollection

    rows = lay_out(columns, sequences)
    edge = 0.5 if len(columns) <= 200 else 0.0
    for kind, colour in COLOURS.items():
        _add_bars(ax, rows.bars[kind], colour, kind, edge)
    waits = LineCollection(rows.waits, colors="#888888", linewidths=1.0, linestyles=":")
    ax.add_collection(waits, autolim=False)
    size = 42 if len(sequences) <= 20 else 24
    for label, (marker, colour, area) in MARKS.items():
        if points := rows.marks[label]:
            x, y = zip(*points, strict=True)
            ax.scatter(
                x, y, s=area * size, marker=marker, color=colour, label=label, clip_on=False,
                zorder=3 if label == "resumed" else 4, linewidths=0.5, edgecolors="white",
            )  # fmt: skip
    ax.set_ylim(max(len(sequences), 1) - 0.4, -0.6)
    ax.set_yticks(range(len(sequences)), [sequence_label(*s) for s in sequences], fontsize=7)
    ax.set_ylabel("request")
    _add_legend(ax)


def _draw_tokens(ax: Axes, columns: list[Column]) -> None:
    """Tokens a step, stacked; the mean where a column holds several steps."""
    bars: dict[str, list[Bar]] = {kind: [] for kind in COLOURS}
    tops: list[float] = []
    for column in columns:
        sums = dict.fromkeys(reversed(COLOURS), 0)
        for chunk, kind in column.chunks:
            sums[kind] += chunk.length
        top = 0.0
        for kind, tokens in sums.items():
            low, top = top, top + tokens / len(column.steps)
            if tokens:
                bars[kind].append(Bar(column.begin, column.end, low, top))
        tops.append(top)
    for kind, colour in COLOURS.items():
        _add_bars(ax, bars[kind], colour, kind, 0.0)
    _finish_panel(ax, "tokens\nper step", tops)


def _draw_pages(ax: Axes, columns: list[Column]) -> None:
    used = [max(step.used_pages for step in column.steps) for column in columns]
    times, values = _staircase(columns, used)
    style = {"color": "#8c7aa9", "alpha": 0.6, "linewidth": 0}
    ax.fill_between(times, values, step="post", label="pages in use", **style)
    copies = [
        (column.begin, pages)
        for column, pages in zip(columns, used, strict=True)
        if any(step.copies for step in column.steps)
    ]
    if copies:
        x, y = zip(*copies, strict=True)
        ax.scatter(x, y, s=16, marker="v", color="#333333", label="page copied", zorder=3)
    _finish_panel(ax, "KV pages", used)


def _draw_counts(ax: Axes, columns: list[Column]) -> None:
    running = [max(step.num_running for step in column.steps) for column in columns]
    waiting = [max(step.num_waiting for step in column.steps) for column in columns]
    for label, colour, counts in (("running", "#2b2b2b", running), ("waiting", "#d0679d", waiting)):
        times, values = _staircase(columns, counts)
        ax.step(times, values, where="post", color=colour, linewidth=1.2, label=label)
    _finish_panel(ax, "sequences", [*running, *waiting])


def _staircase(columns: list[Column], values: list[int]) -> tuple[list[float], list[int]]:
    """Values that hold from one column's begin to the next one's, and to the last one's end."""
    if not columns:
        return [], []
    return [*(c.begin for c in columns), columns[-1].end], [*values, values[-1]]


def _add_bars(ax: Axes, bars: list[Bar], colour: str, label: str, edge: float) -> None:
    from matplotlib.collections import PolyCollection

    if bars:
        corners: Any = [bar.corners for bar in bars]
        collection = PolyCollection(
            corners, facecolors=colour, edgecolors="white", linewidths=edge, label=label
        )
        ax.add_collection(collection, autolim=False)


def _finish_panel(ax: Axes, label: str, values: Sequence[float]) -> None:
    ax.set_ylim(0, 1.08 * max(values, default=0) or 1)
    ax.set_ylabel(label, fontsize=9)
    ax.locator_params(axis="y", nbins=4, integer=True)
    _add_legend(ax)


def _add_legend(ax: Axes) -> None:
    """Beside the axes, where it hides nothing."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
