"""Direct logit attribution: what each head and MLP adds to a logit (Elhage et al. 2021).

The residual that enters the final norm is a sum: the embedding, and of every layer its heads
(`z_h W_O`), its attention biases, its recurrent mixer and its feed-forward block. With the scales
of the norms behind them frozen at their values in this forward, each term's part of a logit is its
inner product with one direction (`residual.py`).

Dimension key: L layers, N heads (the most of any layer), H head, D model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ferrum_jax.models.params import Params
from ferrum_jax.research.figure import FigurePath
from ferrum_jax.research.prompt import checked_position, run_prompt, token_texts
from ferrum_jax.research.reading.residual import (
    LayerTerms,
    fp32,
    layer_terms,
    stream_sites,
    through,
)
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import ModelConfig, RequestError, Taps, UnsupportedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.runtime.llm import LLM

Target = str | int | Sequence[str | int]
LISTED = 12
"""Terms that `repr` names."""


@dataclass(frozen=True, eq=False)
class LogitAttribution:
    """The terms of a logit, or of a difference of logits, at one position.

    All terms add up to `logit`, to the rounding of the weights' dtype. It is the logit before a
    final soft cap, which is not linear.
    """

    position: int
    tokens: tuple[str, ...]
    """The prompt, as the vocabulary spells it."""
    target: tuple[str, ...]
    against: tuple[str, ...]
    """Empty: the terms are of the target's logit alone."""
    soft_cap: float | None
    """The model's, which acts after what is shown here."""
    logit: float
    """The model's own: the mean over the targets, less the mean over `against`."""
    embedding: float
    """Of what enters the first layer: the token's, and its position's where the model adds one."""
    heads: Float[np.ndarray, "L N"]
    """Layers with fewer heads than others have nan behind their last; those without attention
    have nothing else."""
    attention_bias: Float[np.ndarray, " L"]
    """Of the output projection and, where a norm with a bias follows, of that norm."""
    mixer: Float[np.ndarray, " L"]
    """Of recurrent mixers (`mixer_out`); 0 where a layer has none, as are the next two."""
    mlp: Float[np.ndarray, " L"]
    norm_bias: Float[np.ndarray, " L"]
    """Of norms that the stream itself goes through, in layers that have such."""
    final_norm_bias: float
    unembed_bias: float
    remainder: Float[np.ndarray, " L"]
    """What a layer's residual gained from none of these: edits of the residual stream, of
    `attn_out` or of `mixer_out`, the block of per-layer inputs (Gemma 4), and rounding."""

    @property
    def total(self) -> float:
        """The sum of all terms."""
        layers = self.attention_bias + self.mixer + self.mlp + self.norm_bias + self.remainder
        ends = self.embedding + self.final_norm_bias + self.unembed_bias
        return float(ends + np.nansum(self.heads) + layers.sum())

    @property
    def terms(self) -> dict[str, float]:
        """Every term by its name, in the model's order: `embedding`, `0.head.3`, `0.mlp`, ..."""
        named = {"embedding": self.embedding}
        for layer, row in enumerate(self.heads):
            named |= {f"{layer}.head.{h}": float(x) for h, x in enumerate(row) if x == x}
            for name in ("attention_bias", "mixer", "mlp", "norm_bias", "remainder"):
                named[f"{layer}.{name}"] = float(getattr(self, name)[layer])
        ends = {"final_norm_bias": self.final_norm_bias, "unembed_bias": self.unembed_bias}
        return named | ends

    @property
    def what(self) -> str:
        """The quantity in words."""
        names = [" + ".join(map(repr, x)) for x in (self.target, self.against) if x]
        cap = f", before the soft cap of {self.soft_cap:g}" if self.soft_cap else ""
        return f"logit of {' - '.join(names)}{cap}"

    def __repr__(self) -> str:
        largest = sorted(self.terms.items(), key=lambda term: -abs(term[1]))[:LISTED]
        return "\n".join(
            [
                f"{self.what}; after {self.tokens[self.position]!r} (position {self.position}): "
                f"{self.logit:+.4f}, the terms add up to {self.total:+.4f}; the largest:",
                *(f"{value:+10.4f}  {name}" for name, value in largest),
            ]
        )

    def plot(self, path: FigurePath = None) -> Figure:
        """Layers x heads and MLPs as a heat map, and beside it each layer's sums.

        Args:
            path: where to save the picture; its ending names the format.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from ferrum_jax.research.reading.attribution_plot import plot_attribution

        return plot_attribution(self, path)


def direct_logit_attribution(
    llm: LLM,
    prompt: Prompt,
    target: Target,
    *,
    against: Target | None = None,
    position: int = -1,
    taps: Taps | None = None,
) -> LogitAttribution:
    """Split the logit of a token, or the difference of two, into the terms of the residual.

    Frozen are the scales of the final norm and of every norm that the stream or a block's output
    goes through, that over the heads' sum for example. Terms are in units of logits, computed in
    fp32. Recurrent mixers, MLPs and mixtures have one term each.

    Args:
        target: a token as text or id; of several the mean is taken.
        against: tokens whose mean logit is subtracted.
        position: where the logit is; negative ones count from the end.
        taps: edits, to read an edited model. Heads and MLPs are shown as the edited model has
            them; what edits add to the residual stream itself is in `remainder`.

    Raises:
        RequestError: a wrong prompt or position, or a text that is not one token.
        UnsupportedError: edits of the site `logits`, which act behind what is linear.
    """
    if taps is not None and "logits" in getattr(taps, "edits", {}):
        raise UnsupportedError(
            "edits of the site 'logits' are no term of the residual stream; leave them out"
        )
    targets = _token_ids(llm, target, "target")
    others = () if against is None else _token_ids(llm, against, "against")
    config, params = llm.config, llm.params
    run = run_prompt(llm, prompt, stream_sites(config), taps=taps)
    at = checked_position(position, len(run.token_ids))
    rows = [
        {site: fp32(values[i][at]) for site, values in run.captured.items() if i in values}
        for i in range(config.num_layers)
    ]
    unembed_D, bias = _unembedding(params, config, targets, others)
    final_D, final_bias = _final(params, config, rows[-1]["resid_post"], unembed_D)
    terms, remainder = _layers(params, config, rows, final_D)
    return LogitAttribution(
        position=at,
        tokens=run.tokens,
        target=token_texts(llm, targets),
        against=token_texts(llm, others),
        soft_cap=config.final_soft_cap,
        logit=float(fp32(run.hidden[at]) @ unembed_D) + bias,
        embedding=float(rows[0]["resid_pre"] @ terms[0].before),
        heads=_stacked([layer.heads for layer in terms]),
        attention_bias=fp32([layer.attention_bias for layer in terms]),
        mixer=fp32([layer.mixer for layer in terms]),
        mlp=fp32([layer.mlp for layer in terms]),
        norm_bias=fp32([layer.norm_bias for layer in terms]),
        final_norm_bias=final_bias,
        unembed_bias=bias,
        remainder=remainder,
    )


def _layers(
    params: Params, config: ModelConfig, rows: list[dict[str, np.ndarray]], final_D: np.ndarray
) -> tuple[list[LayerTerms], Float[np.ndarray, " L"]]:
    """The terms of all layers, from the last to the first, and what they leave unexplained."""
    direction_D, found, remainder = final_D, [], []
    for i in reversed(range(config.num_layers)):
        spec, p = config.layers[i], params.layers[i]
        terms = layer_terms(spec, p, config.norm_eps, rows[i], direction_D)
        entered_D = rows[0]["resid_pre"] if i == 0 else rows[i - 1]["resid_post"]
        gained = rows[i]["resid_post"] @ direction_D - entered_D @ terms.before
        remainder.append(gained - terms.total)
        found.append(terms)
        direction_D = terms.before
    return found[::-1], fp32(remainder[::-1])


def _final(
    params: Params, config: ModelConfig, last_D: np.ndarray, unembed_D: np.ndarray
) -> tuple[Float[np.ndarray, " D"], float]:
    """The direction before the final norm, and what its bias adds."""
    if config.final_norm is None:
        return unembed_D, 0.0
    norm = params.final_norm
    bias = 0.0 if norm.bias is None else float(fp32(norm.bias) @ unembed_D)
    return through(last_D, norm, config.final_norm, config.norm_eps, unembed_D), bias


def _unembedding(
    params: Params, config: ModelConfig, targets: Sequence[int], others: Sequence[int]
) -> tuple[Float[np.ndarray, " D"], float]:
    """The mean unembedding of the targets, less that of the others, and likewise of the biases."""

    def mean(ids: Sequence[int]) -> tuple[np.ndarray, float]:
        index = np.asarray(ids)
        rows = params.embed[index] if params.unembed is None else params.unembed[:, index].T
        biases = 0.0 if params.unembed_bias is None else fp32(params.unembed_bias[index]).mean()
        return fp32(rows).mean(axis=0), float(biases)

    row_D, bias = mean(targets)
    if others:
        other_D, other_bias = mean(others)
        row_D, bias = row_D - other_D, bias - other_bias
    if params.embed_out is not None:
        row_D = fp32(params.embed_out) @ row_D
    return row_D * np.float32(config.logit_scale), bias * config.logit_scale


def _token_ids(llm: LLM, tokens: Target, name: str) -> tuple[int, ...]:
    listed = (tokens,) if isinstance(tokens, str | int | np.integer) else tuple(tokens)
    if not listed:
        raise RequestError(f"{name} is empty; name at least one token")
    return tuple(_token_id(llm, token, name) for token in listed)


def _token_id(llm: LLM, token: str | int, name: str) -> int:
    """The id of one token; a text is taken as it stands, without special tokens."""
    if not isinstance(token, str):
        if not 0 <= token < llm.config.vocab_size:
            raise RequestError(
                f"{name} is token id {token}; the vocabulary has ids 0 to "
                f"{llm.config.vocab_size - 1}"
            )
        return int(token)
    if llm.tokenizer is None:
        llm.encode(token)  # says that there is no tokenizer, and what to do
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        raise RequestError(
            f"{name} {token!r} is {len(ids)} tokens ({' '.join(token_texts(llm, ids))}, "
            f"ids {ids}); give one token, as text or id"
        )
    return ids[0]


def _stacked(rows: Sequence[np.ndarray]) -> Float[np.ndarray, "L N"]:
    widest = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, widest - len(row)), constant_values=np.nan) for row in rows])
