"""The picture of an attribution: a heat map of the terms, and the sums of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ferrum_jax.research.figure import (
    DIVERGING,
    GREY,
    LINES,
    MAX_LABELLED,
    FigurePath,
    add_scale,
    drawable,
    heat_map,
    name_columns,
    name_layers,
    new_figure,
    saved,
    write_cells,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ferrum_jax.research.reading.attribution import LogitAttribution

NEGLIGIBLE = 1e-3
"""Share of the largest term below which biases and remainders get no column."""


def plot_attribution(found: LogitAttribution, path: FigurePath) -> Figure:
    """Draw an attribution; see `LogitAttribution.plot`."""
    names, cells = _columns(found)
    layers, columns = cells.shape
    width, height = max(3.0, min(0.55 * columns, 8.0)), max(2.4, min(0.34 * layers, 9.0))
    figure, axes = new_figure(
        "LogitAttribution", width + 5.2, height + 1.5, 1, 2, sharey=True, width_ratios=[width, 3.2]
    )
    ax, sums = axes[0]
    bound = float(np.nanmax(np.abs(cells))) or 1.0
    image = heat_map(ax, cells, -bound, bound, DIVERGING)
    if columns * 0.42 <= width and layers <= MAX_LABELLED:
        write_cells(image, [["" if np.isnan(x) else f"{x:.2f}" for x in row] for row in cells])
    name_columns(ax, names)
    name_layers(ax, range(layers))
    ax.set_xlabel("head, and the rest of the layer", fontsize=9)
    add_scale(figure, image, ax, "added to the logit")
    _draw_sums(sums, found)
    after = drawable(found.tokens[found.position])
    figure.suptitle(_title(found) + f', after "{after}"', fontsize=10.5, parse_math=False)
    return saved(figure, path)


def _columns(found: LogitAttribution) -> tuple[list[str], np.ndarray]:
    """The heads and MLPs, and biases and remainders where they count."""
    columns = {str(head): values for head, values in enumerate(found.heads.T)}
    if np.any(found.mixer):
        columns["mixer"] = found.mixer
    columns["MLP"] = found.mlp
    largest = max(np.nanmax(np.abs(values)) for values in columns.values())
    biases = found.attention_bias + found.norm_bias
    for name, values in {"bias": biases, "rest": found.remainder}.items():
        if np.abs(values).max() > NEGLIGIBLE * largest:
            columns[name] = values
    return list(columns), np.stack(list(columns.values()), axis=1)


def _draw_sums(ax: Axes, found: LogitAttribution) -> None:
    """Two bars a layer, and the sum of all terms up to it as a line."""
    layers = np.arange(len(found.mlp))
    attention = np.nansum(found.heads, axis=1) + found.attention_bias
    named = {"attention": attention, "mixer": found.mixer}
    mixed = attention + found.mixer
    present = [name for name, values in named.items() if np.any(values)]
    parts = {" and ".join(present) or "attention": mixed, "MLP": found.mlp}
    for shift, colour, (name, values) in zip((-0.2, 0.2), LINES, parts.items(), strict=False):
        ax.barh(layers + shift, values, 0.38, color=colour, label=name)
    sums = found.embedding + np.cumsum(mixed + found.mlp + found.norm_bias + found.remainder)
    ax.plot(sums, layers, "o-", color="#1a1a1a", lw=1, ms=3, label="sum so far")
    ax.axvline(found.embedding, color=GREY, lw=1, ls=":", label="embedding")
    ax.axvline(0, color="#1a1a1a", lw=0.8)
    ax.tick_params(which="both", length=0, labelsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_xlabel("logits", fontsize=9)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)


def _title(found: LogitAttribution) -> str:
    names = [
        " + ".join(f'"{drawable(token)}"' for token in tokens)
        for tokens in (found.target, found.against)
        if tokens
    ]
    cap = f" before the soft cap of {found.soft_cap:g}" if found.soft_cap else ""
    ends = {"final norm": found.final_norm_bias, "unembedding": found.unembed_bias}
    parts = [f"{bias:.2f} by the bias of the {name}" for name, bias in ends.items() if bias]
    besides = f" ({', '.join(parts)})" if parts else ""
    return f"logit of {' - '.join(names)}{cap} = {found.logit:.2f}{besides}"
