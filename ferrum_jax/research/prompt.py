"""One prompt through the dense forward, and what was captured on its way.

Dimension key: T tokens, P tokens and padding, D model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrum_jax.attention import dense_attention
from ferrum_jax.models import Params, forward_capture
from ferrum_jax.models.sites import check_taps, site_shape
from ferrum_jax.runtime.dense import padded_tokens
from ferrum_jax.runtime.intake import checked_token_ids
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import (
    Edit,
    ModelConfig,
    Place,
    RequestError,
    Taps,
    TokenizerError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM


@dataclass(frozen=True, eq=False)
class PromptRun:
    """A forward of one prompt. Captured arrays hold P rows, those behind the T tokens padding."""

    token_ids: Int[np.ndarray, " T"]
    tokens: tuple[str, ...]
    """Each token as the vocabulary spells it."""
    hidden: Float[Array, "P D"]
    """After the final norm."""
    captured: dict[str, dict[int, Array]]
    place: Place
    """Where the P rows stand, for edits of the logits."""


def run_prompt(
    llm: LLM,
    prompt: Prompt,
    capture: tuple[str, ...],
    *,
    layers: tuple[int, ...] | None = None,
    taps: Taps | None = None,
) -> PromptRun:
    """Run a prompt in one dense forward with edits, compiled once per config and padded length.

    Raises:
        RequestError: a wrong prompt, or taps that do not fit the model.
        TokenizerError: a text was given and there is no tokenizer.
    """
    ids = checked_token_ids(llm.encode(prompt), llm.config.vocab_size)
    edits = checked_edits(taps, llm.config)
    tokens, positions = padded_tokens(ids)
    place = Place(jnp.zeros_like(tokens), positions, jnp.full_like(tokens, len(ids)))
    asked = Taps(capture, layers, edits, place)
    hidden, captured = _forward(llm.params, tokens, positions, asked, config=llm.config)
    return PromptRun(np.asarray(ids), token_texts(llm, ids), hidden, captured, place)


@partial(jax.jit, static_argnames="config")
def _forward(params: Params, tokens, positions, taps: Taps, *, config: ModelConfig):
    hidden, _, captured = forward_capture(
        params, tokens, positions, None, config=config, attend=dense_attention, taps=taps
    )
    return hidden, captured


def checked_edits(taps: Taps | None, config: ModelConfig) -> dict[str, tuple[Edit, ...]]:
    """The edits of a reading's `taps=`; what else it captures is of no use here.

    Raises:
        RequestError: it is no `Taps`, or an edit does not fit the model.
        UnsupportedError: an edit is a bare function, or the taps hold an adapter.
    """
    if taps is None:
        return {}
    if not isinstance(taps, Taps):
        raise RequestError(
            f"taps is a {type(taps).__name__}; a reading is of one model: give one fj.Taps, as the "
            "functions of fj.edits return it"
        )
    if taps.adapters is not None:
        raise UnsupportedError(
            "readings take no adapter as taps; read the merged model, llm.merged(adapter)"
        )
    check_taps(config, Taps(edits=taps.edits))
    return taps.edits


def checked_layers(layers: int | Iterable[int] | None, config: ModelConfig) -> tuple[int, ...]:
    """Layer numbers in the order given; None: all.

    Raises:
        RequestError: there are none, or one is out of range.
    """
    if layers is None:
        return tuple(range(config.num_layers))
    chosen = (layers,) if isinstance(layers, int | np.integer) else tuple(layers)
    if not chosen:
        raise RequestError("layers is empty; name at least one, or give None for all")
    for layer in chosen:
        if not isinstance(layer, int | np.integer) or not 0 <= layer < config.num_layers:
            raise RequestError(
                f"layer {layer!r} does not exist; the model has layers 0 to {config.num_layers - 1}"
            )
    return tuple(int(layer) for layer in chosen)


def layers_with(
    site: str, layers: int | Iterable[int] | None, config: ModelConfig
) -> tuple[int, ...]:
    """`checked_layers` of those that have a site; None: all that have it.

    Raises:
        RequestError: none has it, or one that is named has not.
    """
    chosen = checked_layers(layers, config)
    check_taps(config, Taps(capture=(site,), layers=chosen))
    having = tuple(i for i in chosen if site_shape(config, site, i) is not None)
    if layers is not None and len(having) < len(chosen):
        lacking = [i for i in chosen if i not in having]
        all_having = [i for i in range(config.num_layers) if site_shape(config, site, i)]
        raise RequestError(
            f"layer {', '.join(map(str, lacking))} has no site {site!r}; the layers that have it "
            f"are {', '.join(map(str, all_having))}"
        )
    return having


def checked_position(position: int, length: int) -> int:
    """A token's place from the start; negative ones count from the end.

    Raises:
        RequestError: it is outside the prompt.
    """
    if not isinstance(position, int | np.integer) or not -length <= position < length:
        raise RequestError(
            f"position is {position!r}; the prompt has tokens 0 to {length - 1} "
            f"(or -{length} to -1 from its end)"
        )
    return int(position) % length


def token_texts(llm: LLM, ids: Sequence[int]) -> tuple[str, ...]:
    """Tokens as the vocabulary spells them; their ids where the tokenizer has no text."""
    return tuple(_token_text(llm, int(token)) for token in ids)


def _token_text(llm: LLM, token: int) -> str:
    if llm.tokenizer is None:
        return str(token)
    try:
        return llm.tokenizer.token_text(token)
    except TokenizerError:  # padded vocabularies have rows that no text leads to
        return str(token)
