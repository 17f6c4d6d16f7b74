"""The logit lens: what each layer would predict if it were the last (nostalgebraist 2020).

Dimension key: L layers that are read, T tokens, B tokens of a block, J likeliest tokens, D model,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrum_jax.models import Params, unembed
from ferrum_jax.models.norm import normalise
from ferrum_jax.research.divergence import kl_divergence
from ferrum_jax.research.figure import FigurePath
from ferrum_jax.research.prompt import (
    PromptRun,
    layers_with,
    run_prompt,
    token_texts,
)
from ferrum_jax.runtime.dense import LENGTH_STEP
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import ModelConfig, RequestError, Taps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ferrum_jax.runtime.llm import LLM

LENS_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mixer_out", "mlp_out")
"""Sites of the residual stream's width."""
TOP = 5
"""Likeliest tokens that are kept for each layer and position."""

Translate = Callable[[Float[Array, "L B D"]], Float[Array, "L B D"]]


@dataclass(frozen=True, eq=False)
class LensReading:
    """What each layer predicts at each position, layers in the order that was asked for.

    The next token of the last position is not known: its probability is nan, its rank 0.
    """

    lens: str
    """Which lens it was: `logit lens` or `tuned lens`."""
    site: str
    layers: tuple[int, ...]
    token_ids: Int[np.ndarray, " T"]
    tokens: tuple[str, ...]
    """The prompt's tokens, as the vocabulary spells them."""
    top_ids: Int[np.ndarray, "L T J"]
    """The likeliest next tokens, the best first."""
    top_tokens: tuple[tuple[tuple[str, ...], ...], ...]
    """Their texts: layer, position, place."""
    top_probabilities: Float[np.ndarray, "L T J"]
    next_probability: Float[np.ndarray, "L T"]
    """Of the token that follows in the prompt."""
    next_rank: Int[np.ndarray, "L T"]
    """1 where the token that follows is the likeliest."""
    kl: Float[np.ndarray, "L T"]
    """KL(model's output || layer's prediction), in nats."""
    entropy: Float[np.ndarray, "L T"]
    """Of the layer's prediction, in nats."""

    def __repr__(self) -> str:
        head = f"{self.lens} of {self.site}, {len(self.tokens)} tokens; means over positions"
        rows = ["layer  KL [nats]  entropy [nats]  p(next)  rank 1  top at the last token"]
        known = self.next_rank[:, :-1]
        for i, layer in enumerate(self.layers):
            p = self.next_probability[i, :-1].mean() if known.size else np.nan
            first = (known[i] == 1).mean() if known.size else np.nan
            rows.append(
                f"{layer:5d}  {self.kl[i].mean():9.3f}  {self.entropy[i].mean():14.3f}  {p:7.3f}"
                f"  {first:6.1%}  {self.top_tokens[i][-1][0]!r}"
            )
        return "\n".join([head, *rows])

    def plot(self, path: FigurePath = None, *, max_positions: int = 20) -> Figure:
        """Layers x positions: the likeliest token in each cell, coloured by its probability.

        A cell is framed where the likeliest token is the one that follows.

        Args:
            path: where to save the picture; its ending names the format.
            max_positions: columns at most, the last ones.

        Raises:
            RequestError: `max_positions` is below 1.
            UnsupportedError: matplotlib is not installed.
        """
        from ferrum_jax.research.reading.lens_plot import plot_lens

        return plot_lens(self, path, max_positions)


def logit_lens(
    llm: LLM,
    prompt: Prompt,
    *,
    layers: int | Iterable[int] | None = None,
    site: str = "resid_post",
    taps: Taps | None = None,
) -> LensReading:
    """Each layer's residual through the model's own final norm and unembedding.

    Of the site `resid_post` the last layer's reading is the model's output. Soft caps and edits of
    the site `logits` act on every layer's prediction, as parts of the unembedding.

    Args:
        layers: None: all that have the site.
        site: a site of the residual stream's width; `resid_pre` of layer 0 is the embedding.
        taps: edits, to read an edited model.

    Raises:
        RequestError: a wrong prompt, layer or site.
    """
    if site not in LENS_SITES:
        raise RequestError(f"site is {site!r}; a lens reads one of {', '.join(LENS_SITES)}")
    return read_layers(llm, prompt, layers, site, taps, lens="logit lens")


def read_layers(
    llm: LLM,
    prompt: Prompt,
    layers: int | Iterable[int] | None,
    site: str,
    taps: Taps | None,
    *,
    lens: str,
    translate: Translate | None = None,
) -> LensReading:
    """The reading of a lens; `translate` maps the layers' residuals before the final norm."""
    layers = layers_with(site, layers, llm.config)
    run = run_prompt(llm, prompt, (site,), layers=layers, taps=taps)
    read = _read_run(llm, run, [run.captured[site][layer] for layer in layers], taps, translate)
    texts: dict[int, str] = {}
    for token in np.unique(read["top_ids"]):
        (texts[int(token)],) = token_texts(llm, [token])
    top_tokens = tuple(
        tuple(tuple(texts[int(token)] for token in top) for top in row) for row in read["top_ids"]
    )
    return LensReading(lens, site, layers, run.token_ids, run.tokens, top_tokens=top_tokens, **read)


def _read_run(
    llm: LLM,
    run: PromptRun,
    residuals: list[Float[Array, "P D"]],
    taps: Taps | None,
    translate: Translate | None,
) -> dict[str, np.ndarray]:
    """The arrays of a reading, block by block: no more than B x V logits exist at a time."""
    count = len(run.token_ids)
    following = np.full(len(run.hidden), -1, np.int32)
    following[: count - 1] = run.token_ids[1:]
    logits_edits = {} if taps is None else {k: v for k, v in taps.edits.items() if k == "logits"}
    blocks = []
    for start in range(0, count, LENGTH_STEP):
        span = slice(start, start + LENGTH_STEP)
        resid_LBD = jnp.stack([x[span] for x in residuals])
        blocks.append(
            _read_block(
                llm.params,
                run.hidden[span],
                resid_LBD if translate is None else translate(resid_LBD),
                jnp.asarray(following[span]),
                Taps(edits=logits_edits, place=run.place.take(span)),
                config=llm.config,
            )
        )
    return {
        name: np.concatenate([block[name] for block in blocks], axis=1)[:, :count]
        for name in blocks[0]
    }


@partial(jax.jit, static_argnames="config")
def _read_block(
    params: Params, hidden_BD, resid_LBD, next_B, taps: Taps, *, config: ModelConfig
) -> dict[str, Array]:
    final_BV = jax.nn.log_softmax(unembed(params, hidden_BD, config, taps=taps))
    known_B = next_B >= 0

    def read(resid_BD: Array) -> dict[str, Array]:
        logits_BV = lens_logits(params, resid_BD, config, taps=taps)
        log_BV = jax.nn.log_softmax(logits_BV)
        top_log_BJ, top_BJ = jax.lax.top_k(log_BV, min(TOP, config.vocab_size))
        chosen_B1 = jnp.take_along_axis(log_BV, next_B[:, None], axis=1)
        rank_B = 1 + jnp.sum(log_BV > chosen_B1, axis=1)
        return {
            "top_ids": top_BJ,
            "top_probabilities": jnp.exp(top_log_BJ),
            "next_probability": jnp.where(known_B, jnp.exp(chosen_B1[:, 0]), jnp.nan),
            "next_rank": jnp.where(known_B, rank_B, 0),
            "kl": kl_divergence(final_BV, log_BV),
            "entropy": -_expected(log_BV, log_BV),
        }

    return jax.lax.map(read, resid_LBD)


def lens_logits(
    params: Params, resid: Float[Array, "B D"], config: ModelConfig, *, taps: Taps | None = None
) -> Float[Array, "B V"]:
    """Logits of residuals as if they left the last layer."""
    hidden = resid
    if config.final_norm is not None:
        hidden = normalise(resid, params.final_norm, config.final_norm, config.norm_eps)
    return unembed(params, hidden, config, taps=Taps() if taps is None else taps)


def _expected(log_p: Array, values: Array) -> Array:
    """The mean of values under p; what p excludes does not count, even where it is infinite."""
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * values, 0), axis=-1)
