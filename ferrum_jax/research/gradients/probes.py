"""One prompt whose activations are read, replaced, and differentiated by zero probes.

A probe is an array of zeros that is added to an activation: the gradient to the probe is the
gradient to the activation. The metric stays outside of the compiled programs, so that another
metric compiles nothing anew; the price is a second forward.

Dimension key: T tokens, P tokens and padding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrum_jax.attention import dense_attention
from ferrum_jax.models import Params, forward_capture
from ferrum_jax.models.decoder import Captured
from ferrum_jax.models.sites import check_taps
from ferrum_jax.models.taps import placed, rows_of
from ferrum_jax.research.edits.spans import layer_spans, position_spans
from ferrum_jax.research.prompt import checked_edits, checked_layers, token_texts
from ferrum_jax.runtime.dense import padded_tokens
from ferrum_jax.runtime.intake import checked_token_ids
from ferrum_jax.runtime.prompts import Prompt
from ferrum_jax.types import Edit, ModelConfig, Place, RequestError, Taps

if TYPE_CHECKING:
    from ferrum_jax.runtime.llm import LLM

Model = Any
"""An `LLM`, or a pair `(config, params)`, with which prompts are token ids."""
Metric = Callable[[Array], Array]
"""From logits `[T, V]`, fp32, to a scalar: a function that jax can differentiate."""
Activations = dict[str, dict[int, np.ndarray]]
"""By site and layer, `[T, ...]`."""
Edits = dict[str, tuple[Any, ...]]


def as_llm(model: Model) -> LLM:
    """The LLM of a `(config, params)` pair; an LLM passes through."""
    from ferrum_jax.runtime.llm import LLM

    if isinstance(model, LLM):
        return model
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], ModelConfig):
        return LLM(*model)
    raise RequestError(
        f"the model is a {type(model).__name__}; give an fj.LLM, or a pair (config, params)"
    )


@dataclass(frozen=True, eq=False)
class ProbedPrompt:
    """A prompt, padded, with the edits that are made in all of its runs."""

    config: ModelConfig
    params: Params
    token_ids: Int[np.ndarray, " T"]
    tokens: tuple[str, ...]
    """Each as the vocabulary spells it."""
    edits: Edits

    @classmethod
    def of(cls, model: Model, prompt: Prompt, taps: Taps | None = None) -> ProbedPrompt:
        """Raises `RequestError` for a wrong model, prompt or edit."""
        llm = as_llm(model)
        ids = checked_token_ids(llm.encode(prompt), llm.config.vocab_size)
        edits = checked_edits(taps, llm.config)
        return cls(llm.config, llm.params, np.asarray(ids), token_texts(llm, ids), edits)

    def run(
        self,
        sites: tuple[str, ...],
        layers: tuple[int, ...] | None = None,
        replaced: Captured | None = None,
    ) -> tuple[Activations, Float[Array, "T V"]]:
        """Activations, and the logits; `replaced` activations `[P, ...]` are put in place."""
        capture = tuple(dict.fromkeys((*sites, "logits")))
        edits = _joined(self.edits, PUT, replaced or {})
        captured = _capture(
            self.params, *self._padded, edits, config=self.config, capture=capture, layers=layers
        )
        logits = captured["logits"][self.config.num_layers][: len(self.token_ids)]
        return self._on_host({site: captured[site] for site in sites}), logits

    def pull_back(
        self,
        cotangent: Float[Array, "T V"],
        sites: tuple[str, ...],
        layers: tuple[int, ...] | None = None,
        replaced: Captured | None = None,
    ) -> Activations:
        """What a gradient to the logits is at activations."""
        missing = len(self._padded[0]) - len(self.token_ids)
        gradients = _pull_back(
            self.params,
            *self._padded,
            _joined(self.edits, PUT, replaced or {}),
            jnp.pad(cotangent, ((0, missing), (0, 0))),
            config=self.config,
            capture=sites,
            layers=layers,
        )
        return self._on_host(gradients)

    def padded(self, values: np.ndarray) -> Array:
        """`[T, ...] -> [P, ...]`, as `replaced` takes it."""
        missing = len(self._padded[0]) - len(self.token_ids)
        return jnp.pad(jnp.asarray(values), ((0, missing), *[(0, 0)] * (values.ndim - 1)))

    @property
    def _padded(self) -> tuple[Array, Array]:
        """Tokens and positions `[P]`; each token of padding is a sequence of its own."""
        return padded_tokens(self.token_ids.tolist())

    def _on_host(self, captured: Captured) -> Activations:
        count = len(self.token_ids)
        return {
            site: {layer: _cut(site, x, count) for layer, x in values.items()}
            for site, values in captured.items()
        }


def checked_sites(
    config: ModelConfig, sites: str | Iterable[str], layers: int | Iterable[int] | None
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Sites as a tuple, and layers as one or None (all).

    Raises:
        RequestError: there are none, or the model lacks one.
    """
    named = (sites,) if isinstance(sites, str) else tuple(dict.fromkeys(sites))
    if not named:
        raise RequestError("sites is empty; name at least one of ferrum_jax.types.SITES")
    chosen = None if layers is None else checked_layers(layers, config)
    check_taps(config, Taps(capture=named, layers=chosen))
    return named, chosen


def metric_and_gradient(
    metric: Metric, logits: Float[Array, "T V"]
) -> tuple[float, Float[Array, "T V"]]:
    """A metric's value and its gradient to the logits.

    Raises:
        RequestError: it fails on these logits, or returns no single float.
    """
    advice = "give a function of jax.numpy from logits [T, V] to one float"
    try:
        result = jax.eval_shape(metric, logits)
    except (TypeError, ValueError, IndexError) as error:
        raise RequestError(
            f"the metric fails on logits {logits.shape}: {error}; {advice}"
        ) from error
    shape, dtype = getattr(result, "shape", None), getattr(result, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise RequestError(f"the metric returns {result}; {advice}")
    value, gradient = jax.value_and_grad(metric)(logits)
    return float(value), gradient


@partial(jax.jit, static_argnames=("config", "capture", "layers"))
def _capture(
    params: Params,
    tokens: Array,
    positions: Array,
    edits: Edits,
    *,
    config: ModelConfig,
    capture: tuple[str, ...],
    layers: tuple[int, ...] | None,
) -> Captured:
    taps = placed(Taps(capture, layers, edits), positions)
    if taps.place is not None:
        # Every token is a row of its own, so that it finds its own probe wherever the model asks.
        rows = jnp.arange(len(tokens), dtype=jnp.int32)
        taps = taps.replace(place=taps.place.replace(rows=rows))  # type: ignore[attr-defined]
    return forward_capture(
        params, tokens, positions, None, config=config, attend=dense_attention, taps=taps
    )[2]


@partial(jax.jit, static_argnames=("config", "capture", "layers"))
def _pull_back(
    params: Params,
    tokens: Array,
    positions: Array,
    edits: Edits,
    cotangent: Array,
    *,
    config: ModelConfig,
    capture: tuple[str, ...],
    layers: tuple[int, ...] | None,
) -> Captured:
    run = partial(_capture, params, tokens, positions, config=config)
    shapes = jax.eval_shape(lambda: run(edits, capture=capture, layers=layers))
    zeros = jax.tree_util.tree_map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def logits_of(probes: Captured) -> Array:
        probed = _joined(edits, ADD, probes)
        return run(probed, capture=("logits",), layers=None)["logits"][config.num_layers]

    return jax.vjp(logits_of, zeros)[1](cotangent)[0]


@dataclass(frozen=True)
class _Probe:
    """Adds to each token's activation its row of `values[layer]`, or puts that in its place."""

    adds: bool

    def __call__(self, x: Array, values: dict[int, Array], place: Place, layer: int) -> Array:
        if layer not in values:
            return x
        own = rows_of(values[layer], place)
        return x + own if self.adds else own

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: Any) -> None:
        """Its arrays were made for the model."""


ADD, PUT = _Probe(adds=True), _Probe(adds=False)


def _joined(edits: Edits, operation: _Probe, arrays: Captured) -> Edits:
    """The edits, and behind those of a site one with what `arrays` holds for it."""
    layers, positions = layer_spans(None)[None], position_spans(None)[None]
    more = {
        site: (Edit(operation=operation, values=values, layers=layers, positions=positions),)
        for site, values in arrays.items()
    }
    return {
        site: (*edits.get(site, ()), *more.get(site, ())) for site in dict.fromkeys((*edits, *more))
    }


def _cut(site: str, x: Array, count: int) -> np.ndarray:
    """float32, without the padding; keys of attention weights are tokens too."""
    values = np.asarray(x, np.float32)[:count]
    return values[..., :count] if site == "pattern" else values
