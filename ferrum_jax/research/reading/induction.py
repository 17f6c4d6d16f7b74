"""Which heads continue a repeated text (Olsson et al. 2022), found with random tokens.

Dimension key: L layers, N heads (the most of any layer), T tokens (queries), S the same as keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from ferrum_jax.attention import dense_attention
from ferrum_jax.models import Params, forward_capture
from ferrum_jax.research.figure import (
    MAX_LABELLED,
    SEQUENTIAL,
    FigurePath,
    add_scale,
    heat_map,
    name_columns,
    name_layers,
    new_figure,
    saved,
    write_cells,
)
from ferrum_jax.research.prompt import checked_edits, layers_with
from ferrum_jax.types import ModelConfig, RequestError, Taps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.runtime.llm import LLM

KINDS = ("induction", "previous_token", "duplicate_token")
LISTED = 5
"""Heads that `repr` names."""


@dataclass(frozen=True, eq=False)
class InductionScores:
    """Mean attention weights between 0 and 1, with standard errors over the sequences.

    Layers with fewer heads than others have nan behind their last; those without attention have
    nothing else.
    """

    length: int
    """Random tokens before they repeat."""
    repeats: int
    count: int
    """Sequences."""
    induction: Float[np.ndarray, "L N"]
    """From a token of a later copy to what followed the same token in earlier copies."""
    induction_error: Float[np.ndarray, "L N"]
    previous_token: Float[np.ndarray, "L N"]
    """From any token but the first of the first copy to the one before it."""
    previous_token_error: Float[np.ndarray, "L N"]
    duplicate_token: Float[np.ndarray, "L N"]
    """From a token of a later copy to the same token in earlier copies."""
    duplicate_token_error: Float[np.ndarray, "L N"]

    def heads(self, kind: str = "induction", above: float = 0.3) -> list[tuple[int, int]]:
        """`(layer, head)` of scores above a bound, the highest first.

        Raises:
            RequestError: an unknown kind.
        """
        scores = np.nan_to_num(self._of(kind), nan=-1.0)
        order = np.argsort(-scores, axis=None, kind="stable")
        places = zip(*np.unravel_index(order, scores.shape), strict=True)
        return [(int(layer), int(head)) for layer, head in places if scores[layer, head] > above]

    def __repr__(self) -> str:
        rows = [
            f"attention in {self.count} sequences of {self.length} random tokens, "
            f"{self.repeats} copies each: the highest mean weights"
        ]
        for kind in KINDS:
            best = [
                f"{layer}.{head} {self._of(kind)[layer, head]:.3f} "
                f"± {getattr(self, f'{kind}_error')[layer, head]:.3f}"
                for layer, head in self.heads(kind, above=0.0)[:LISTED]
            ]
            rows.append(f"{_title(kind):15}  {'   '.join(best)}")
        return "\n".join([*rows, "(layer.head score ± standard error over sequences)"])

    def plot(self, path: FigurePath = None) -> Figure:
        """Layers x heads for each score, on one scale from 0 to 1.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        return _plot(self, path)

    def _of(self, kind: str) -> np.ndarray:
        if kind not in KINDS:
            raise RequestError(f"kind is {kind!r}; the scores are {', '.join(KINDS)}")
        return getattr(self, kind)


def induction_scores(
    llm: LLM,
    *,
    length: int = 50,
    repeats: int = 2,
    seed: int = 0,
    count: int = 32,
    taps: Taps | None = None,
    progress: bool = False,
) -> InductionScores:
    """Scores of all heads of attention on sequences of random tokens that repeat.

    The tokens of a sequence are distinct ordinary ones, drawn uniformly; where the tokenizer opens
    texts with a BOS token, so do the sequences. With more than two copies the weights on all
    earlier copies are added up.

    Args:
        length: tokens before they repeat.
        repeats: copies, at least 2.
        count: sequences, at least 2.
        taps: edits, to read an edited model.
        progress: show a bar by sequences.

    Raises:
        RequestError: a number out of range, sequences beyond the model's length, or a model
            without attention.
    """
    layers_with("pattern", None, llm.config)
    opening = _opening(llm)
    _check(llm, length, repeats, count, len(opening))
    pool = _ordinary_tokens(llm)
    if length > len(pool):
        raise RequestError(
            f"length is {length}; only {len(pool)} different tokens of the vocabulary are ordinary"
        )
    rng = np.random.default_rng(seed)
    asked = Taps(("pattern",), None, checked_edits(taps, llm.config))
    found = []
    for _ in tqdm(range(count), unit="sequence", disable=not progress):
        tokens = [*opening, *np.tile(rng.choice(pool, length, replace=False), repeats)]
        scores = _scores(
            llm.params,
            jnp.asarray(tokens, jnp.int32),
            asked,
            config=llm.config,
            start=len(opening),
            length=length,
        )
        found.append(np.asarray(scores))
    scores_C3LN = np.stack(found)
    mean = scores_C3LN.mean(axis=0)
    error = scores_C3LN.std(axis=0, ddof=1) / np.sqrt(count)
    values = {kind: mean[i] for i, kind in enumerate(KINDS)}
    errors = {f"{kind}_error": error[i] for i, kind in enumerate(KINDS)}
    return InductionScores(length, repeats, count, **values, **errors)


def _check(llm: LLM, length: int, repeats: int, count: int, opening: int) -> None:
    lowest = {"length": (length, 2), "repeats": (repeats, 2), "count": (count, 2)}
    for name, (value, least) in lowest.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise RequestError(f"{name} is {value!r}; it must be an integer of at least {least}")
    total = opening + length * repeats
    if total > llm.max_model_len:
        raise RequestError(
            f"{repeats} copies of {length} tokens make {total} tokens; the model takes "
            f"{llm.max_model_len}: lower length or repeats"
        )


def _opening(llm: LLM) -> list[int]:
    """The BOS token, if the tokenizer opens texts with one."""
    if llm.tokenizer is None or llm.tokenizer.bos_token_id is None:
        return []
    return [t for t in llm.tokenizer.encode("a")[:1] if t == llm.tokenizer.bos_token_id]


def _ordinary_tokens(llm: LLM) -> np.ndarray:
    """Ids that stand for text."""
    if llm.tokenizer is None:
        special, size = frozenset(llm.eos_token_ids), llm.config.vocab_size
    else:
        special = llm.tokenizer.special_ids | frozenset(llm.eos_token_ids)
        size = min(llm.config.vocab_size, llm.tokenizer.vocab_size)
    return np.setdiff1d(np.arange(size), list(special))


@partial(jax.jit, static_argnames=("config", "start", "length"))
def _scores(
    params: Params, tokens_T, taps: Taps, *, config: ModelConfig, start: int, length: int
) -> Float[Array, "3 L N"]:
    """The scores of `KINDS` in one sequence, in that order."""
    positions_T = jnp.arange(len(tokens_T), dtype=jnp.int32)
    _, _, captured = forward_capture(
        params, tokens_T, positions_T, None, config=config, attend=dense_attention, taps=taps
    )
    patterns = {i: x.astype(jnp.float32) for i, x in captured["pattern"].items()}
    widest = max(pattern.shape[1] for pattern in patterns.values())
    none = jnp.zeros((3, 0))
    scores = {i: _layer_scores(pattern, start, length) for i, pattern in patterns.items()}
    layers = range(config.num_layers)
    return jnp.stack([_padded(scores.get(i, none), widest) for i in layers], axis=1)


def _layer_scores(pattern_TNS: Array, start: int, length: int) -> Float[Array, "3 N"]:
    """Mean weights at fixed distances; `start` is the first random token."""
    pattern_NTS = pattern_TNS.transpose(1, 0, 2)[:, start:, start:]
    total = pattern_NTS.shape[1]
    back = range(length, total, length)
    # The first query at distance d - 1 stands in the copy before: its earlier self does not exist.
    after = sum(_at_distance(pattern_NTS, d - 1)[:, 1:].sum(axis=1) for d in back)
    same = sum(_at_distance(pattern_NTS, d).sum(axis=1) for d in back)
    previous = _at_distance(pattern_NTS, 1).mean(axis=1)
    queries = total - length
    return jnp.stack([after / queries, previous, same / queries])


def _at_distance(pattern_NTS: Array, distance: int) -> Array:
    """Weights of each query on the key so many tokens before it."""
    return jnp.diagonal(pattern_NTS, -distance, axis1=1, axis2=2)


def _padded(scores_3N: Array, widest: int) -> Array:
    return jnp.pad(scores_3N, ((0, 0), (0, widest - scores_3N.shape[1])), constant_values=jnp.nan)


def _title(kind: str) -> str:
    return kind.replace("_", " ")


def _plot(scores: InductionScores, path: FigurePath) -> Figure:
    layers, heads = scores.induction.shape
    width = max(2.2, min(0.55 * heads, 5.5))
    height = max(2.2, min(0.34 * layers, 9.0))
    figure, axes = new_figure("InductionScores", 3 * width + 1.6, height + 1.3, 1, 3, sharey=True)
    for ax, kind in zip(axes[0], KINDS, strict=True):
        values = getattr(scores, kind)
        image = heat_map(ax, values, 0, 1, SEQUENTIAL)
        if heads * 0.4 <= width and layers <= MAX_LABELLED:
            write_cells(image, [["" if np.isnan(v) else f"{v:.2f}" for v in row] for row in values])
        name_columns(ax, [str(head) for head in range(heads)])
        ax.set_xlabel("head", fontsize=9)
        ax.set_title(_title(kind), fontsize=10)
    name_layers(axes[0, 0], range(layers))
    add_scale(figure, image, list(axes[0]), "mean attention weight")
    title = f"{scores.count} sequences of {scores.length} random tokens x {scores.repeats}"
    figure.suptitle(title, fontsize=10.5)
    return saved(figure, path)
