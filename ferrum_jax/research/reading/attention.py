"""What every head attends to in one prompt.

Dimension key: L layers that are read, N heads that are read, T tokens (queries), S the same tokens
as keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ferrum_jax.research.figure import (
    SEQUENTIAL,
    FigurePath,
    add_scale,
    heat_map,
    name_tokens,
    new_figure,
    saved,
)
from ferrum_jax.research.prompt import layers_with, run_prompt
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import ModelConfig, RequestError, Taps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.runtime.llm import LLM

MAX_ACROSS = 8
"""Panels side by side."""


@dataclass(frozen=True, eq=False)
class AttentionPatterns:
    """Attention weights of heads of layers, in the orders that were asked for.

    A query's weights add up to 1, or to less where the layer has sinks.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    token_ids: Int[np.ndarray, " T"]
    tokens: tuple[str, ...]
    """As the vocabulary spells them."""
    pattern: Float[np.ndarray, "L N T S"]

    def __repr__(self) -> str:
        rows = [
            f"attention patterns of {len(self.layers)} layers x {len(self.heads)} heads, "
            f"{len(self.tokens)} tokens",
            "layer  head  mean distance [tokens]  on the first token  on itself",
        ]
        count = len(self.tokens)
        distance_TS = np.arange(count)[:, None] - np.arange(count)
        for i, layer in enumerate(self.layers):
            for j, head in enumerate(self.heads):
                weights = self.pattern[i, j]
                mean = (weights * distance_TS).sum(-1).mean()
                rows.append(
                    f"{layer:5d}  {head:4d}  {mean:22.2f}  {weights[:, 0].mean():18.3f}"
                    f"  {np.diagonal(weights).mean():9.3f}"
                )
        return "\n".join(rows)

    def plot(self, path: FigurePath = None, *, max_panels: int = 48) -> Figure:
        """A panel for each head: queries down, keys across, the scale from 0 to 1.

        Args:
            path: where to save the picture; its ending names the format.
            max_panels: heads at most, the first ones.

        Raises:
            RequestError: `max_panels` is below 1.
            UnsupportedError: matplotlib is not installed.
        """
        if max_panels < 1:
            raise RequestError(f"max_panels is {max_panels}; draw at least 1")
        return _plot(self, path, max_panels)


def attention_patterns(
    llm: LLM,
    prompt: Prompt,
    layers: int | Iterable[int] | None = None,
    heads: int | Iterable[int] | None = None,
    *,
    taps: Taps | None = None,
) -> AttentionPatterns:
    """The attention weights of a prompt, after the softmax and after edits.

    Args:
        layers: None: all that have attention.
        heads: None: all.
        taps: edits, to read an edited model.

    Raises:
        RequestError: a wrong prompt, a layer or head out of range, a layer without attention, or
            all heads of layers that differ in how many they have.
    """
    layers = layers_with("pattern", layers, llm.config)
    heads = _checked_heads(heads, layers, llm.config)
    run = run_prompt(llm, prompt, ("pattern",), layers=layers, taps=taps)
    count = len(run.token_ids)
    pattern = np.stack(
        [
            np.asarray(run.captured["pattern"][layer], np.float32)[:count, list(heads), :count]
            for layer in layers
        ]
    )
    return AttentionPatterns(
        layers, heads, run.token_ids, run.tokens, pattern.transpose(0, 2, 1, 3)
    )


def _checked_heads(
    heads: int | Iterable[int] | None, layers: tuple[int, ...], config: ModelConfig
) -> tuple[int, ...]:
    attentions = {layer: config.layers[layer].attention for layer in layers}
    counts = {layer: a.num_heads for layer, a in attentions.items() if a is not None}
    if heads is None:
        if len(set(counts.values())) > 1:
            raise RequestError(
                f"the layers differ in their heads ({counts}); name the heads, or layers of one "
                "number of heads"
            )
        return tuple(range(counts[layers[0]]))
    chosen = (heads,) if isinstance(heads, int | np.integer) else tuple(heads)
    if not chosen:
        raise RequestError("heads is empty; name at least one, or give None for all")
    layer, fewest = min(counts.items(), key=lambda item: item[1])
    for head in chosen:
        if not isinstance(head, int | np.integer) or not 0 <= head < fewest:
            raise RequestError(
                f"head {head!r} does not exist; layer {layer} has heads 0 to {fewest - 1}"
            )
    return tuple(int(head) for head in chosen)


def _plot(patterns: AttentionPatterns, path: FigurePath, max_panels: int) -> Figure:
    panels = [(i, j) for i in range(len(patterns.layers)) for j in range(len(patterns.heads))]
    shown = panels[:max_panels]
    across = min(len(shown), _panels_across(patterns))
    down = -(-len(shown) // across)
    side = min(4.2, max(1.7, 0.19 * len(patterns.tokens)))
    width, height = side * across + 1.6, side * down + 1.2
    share = {"sharex": True, "sharey": True}
    figure, axes = new_figure("AttentionPatterns", width, height, down, across, **share)
    for ax, (i, j) in zip(axes.flat, shown, strict=False):
        image = heat_map(ax, patterns.pattern[i, j], 0, 1, SEQUENTIAL)
        ax.grid(visible=False, which="both")
        ax.set_title(f"layer {patterns.layers[i]}, head {patterns.heads[j]}", fontsize=9)
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    axes[0, 0].invert_yaxis()  # shared: the first query on top in every panel
    name_tokens(axes[0, 0], "y", patterns.tokens, size=6.5)
    name_tokens(axes[0, 0], "x", patterns.tokens, size=6.5)
    for ax in axes[-1]:
        ax.tick_params(axis="x", labelrotation=90)
    figure.supxlabel("key", fontsize=9)
    figure.supylabel("query", fontsize=9)
    add_scale(figure, image, list(axes.flat), "attention weight")
    if len(shown) < len(panels):
        figure.suptitle(f"the first {len(shown)} of {len(panels)} heads", fontsize=10.5)
    return saved(figure, path)


def _panels_across(patterns: AttentionPatterns) -> int:
    """A row for each layer, unless there is one layer only or its heads are too many."""
    return min(len(patterns.heads), MAX_ACROSS if len(patterns.layers) > 1 else MAX_ACROSS // 2)
