"""Direct logit attribution: what each head and MLP adds to a logit (Elhage et al. 2021).

The residual that enters the final norm is a sum: the embedding, and of every layer its heads
(`z_h W_O`), its attention biases and its MLP. With the scales of the norms behind them frozen at
their values in this forward, each term's part of a logit is its inner product with one direction.

Dimension key: L layers, N heads (the most of any layer), H head, D model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ferrum_jax.models.params import LayerParams, NormParams, Params
from ferrum_jax.research.figure import FigurePath
from ferrum_jax.research.prompt import checked_position, run_prompt, token_texts
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import ModelConfig, NormKind, RequestError, Taps, UnsupportedError

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
    heads: Float[np.ndarray, "L N"]
    """Layers with fewer heads than others have nan behind their last."""
    attention_bias: Float[np.ndarray, " L"]
    """Of the output projection and, where a norm with a bias follows, of that norm."""
    mlp: Float[np.ndarray, " L"]
    final_norm_bias: float
    remainder: Float[np.ndarray, " L"]
    """What a layer's residual gained from none of these: edits of the residual stream or of
    `attn_out`, and rounding."""

    @property
    def total(self) -> float:
        """The sum of all terms."""
        layers = self.attention_bias + self.mlp + self.remainder
        return float(self.embedding + self.final_norm_bias + np.nansum(self.heads) + layers.sum())

    @property
    def terms(self) -> dict[str, float]:
        """Every term by its name, in the model's order: `embedding`, `0.head.3`, `0.mlp`, ..."""
        named = {"embedding": self.embedding}
        for layer, row in enumerate(self.heads):
            named |= {f"{layer}.head.{h}": float(x) for h, x in enumerate(row) if x == x}
            named[f"{layer}.attention_bias"] = float(self.attention_bias[layer])
            named[f"{layer}.mlp"] = float(self.mlp[layer])
            named[f"{layer}.remainder"] = float(self.remainder[layer])
        return named | {"final_norm_bias": self.final_norm_bias}

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

    Frozen are the scales of the final norm and, in layers that normalise a block's output, of that
    norm over the heads' sum. Terms are in units of logits, computed in fp32.

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
    run = run_prompt(llm, prompt, ("resid_post", "z", "mlp_out"), taps=taps)
    at = checked_position(position, len(run.token_ids))
    config, params = llm.config, llm.params
    rows = {
        site: [_fp32(values[layer][at]) for layer in range(config.num_layers)]
        for site, values in run.captured.items()
    }
    unembed_D = _unembedding(params, targets, others)
    direction_D = _through(
        rows["resid_post"][-1], params.final_norm, config.final_norm, config.norm_eps, unembed_D
    )
    embedding_D = _embedding(params, config, int(run.token_ids[at]))
    heads, biases = zip(
        *(
            _attention_terms(config, i, params.layers[i], rows["z"][i], direction_D)
            for i in range(config.num_layers)
        ),
        strict=True,
    )
    heads_LN = _stacked(heads)
    mlp_L = np.stack(rows["mlp_out"]) @ direction_D
    gained_L = np.diff([embedding_D @ direction_D, *(x @ direction_D for x in rows["resid_post"])])
    bias_L = np.asarray(biases, np.float32)
    final_bias = params.final_norm.bias
    return LogitAttribution(
        position=at,
        tokens=run.tokens,
        target=token_texts(llm, targets),
        against=token_texts(llm, others),
        soft_cap=config.final_soft_cap,
        logit=float(_fp32(run.hidden[at]) @ unembed_D),
        embedding=float(embedding_D @ direction_D),
        heads=heads_LN,
        attention_bias=bias_L,
        mlp=mlp_L,
        final_norm_bias=0.0 if final_bias is None else float(_fp32(final_bias) @ unembed_D),
        remainder=gained_L - np.nansum(heads_LN, axis=1) - bias_L - mlp_L,
    )


def _attention_terms(
    config: ModelConfig, layer: int, p: LayerParams, z_NH: np.ndarray, direction_D: np.ndarray
) -> tuple[Float[np.ndarray, " N"], float]:
    """A layer's heads and its bias, through the norm behind attention where there is one."""
    heads_ND = np.einsum("NH,NHD->ND", z_NH, _fp32(p.attention.o))
    width = heads_ND.shape[1]
    bias_D = (
        np.zeros(width, np.float32) if p.attention.o_bias is None else _fp32(p.attention.o_bias)
    )
    if p.attention_post_norm is None:
        return heads_ND @ direction_D, float(bias_D @ direction_D)
    norm, kind = p.attention_post_norm, config.layers[layer].norm
    inner_D = _through(heads_ND.sum(0) + bias_D, norm, kind, config.norm_eps, direction_D)
    shift = 0.0 if norm.bias is None else float(_fp32(norm.bias) @ direction_D)
    return heads_ND @ inner_D, float(bias_D @ inner_D) + shift


def _through(
    x_D: np.ndarray, norm: NormParams, kind: NormKind, eps: float, direction_D: np.ndarray
) -> Float[np.ndarray, " D"]:
    """The direction before a norm that is `direction_D` behind it, with the scale of `x_D` frozen.

    A norm without its bias is `A x / scale`, so that `direction . norm(x) = (A' direction) . x /
    scale`; `A` multiplies with the weight and, for layer norm, takes off the mean before.
    """
    weight_D = _fp32(norm.weight) + (kind is NormKind.RMS_UNIT_OFFSET)
    before_D = weight_D * direction_D
    if kind is NormKind.LAYER:
        x_D, before_D = x_D - x_D.mean(), before_D - before_D.mean()
    return before_D / np.sqrt(np.mean(np.square(x_D)) + np.float32(eps))


def _embedding(params: Params, config: ModelConfig, token: int) -> Float[np.ndarray, " D"]:
    """What enters the first layer; the scale is rounded as the model rounds it."""
    return _fp32(params.embed[token]) * _fp32(jnp.asarray(config.embed_scale, params.embed.dtype))


def _unembedding(
    params: Params, targets: Sequence[int], others: Sequence[int]
) -> Float[np.ndarray, " D"]:
    """The mean unembedding of the targets, less that of the others."""

    def mean(ids: Sequence[int]) -> np.ndarray:
        index = np.asarray(ids)
        rows = params.embed[index] if params.unembed is None else params.unembed[:, index].T
        return _fp32(rows).mean(axis=0)

    return mean(targets) - mean(others) if others else mean(targets)


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


def _fp32(x) -> np.ndarray:
    return np.asarray(x, np.float32)
