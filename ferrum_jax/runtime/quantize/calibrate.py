"""Rounding a model by what its matrices are given: layer by layer, on texts.

A layer is rounded on the inputs that it has behind the layers that are rounded already. Of each
matrix only `x^T x` is kept. For layer i the first i layers run again, so that no more than one
layer's matrices are watched at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ferrum_jax.attention import dense_attention
from ferrum_jax.models import Params, forward
from ferrum_jax.models.params import LayerParams, path_name
from ferrum_jax.models.quantized import (
    flat_shape,
    is_one_matrix,
    kept_as,
    matrix_of,
    quantise,
    quantises,
    refuse_quantized,
)
from ferrum_jax.runtime.dense import padded_tokens
from ferrum_jax.runtime.intake import checked_token_ids
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.runtime.prompts import Prompt, as_prompts
from ferrum_jax.runtime.quantize.awq import awq
from ferrum_jax.runtime.quantize.gptq import gptq
from ferrum_jax.runtime.quantize.watch import Watch, WatchedMatrix
from ferrum_jax.types import ConfigError, ModelConfig, RequestError, UnsupportedError
from ferrum_jax.types.engine import QUANTIZATIONS

METHODS = ("gptq", "awq", "nearest")


def quantize(
    llm: LLM,
    texts: Prompt | Sequence[Prompt] = (),
    kind: str = "int4",
    *,
    method: str = "gptq",
    damping: float = 0.01,
    progress: bool = False,
) -> LLM:
    """Another LLM whose projections are rounded as `EngineConfig.quantization` does, but better.

    The model's own weights stay as they are. Experts are rounded to nearest: each sees some of the
    tokens only.

    Args:
        texts: texts or lists of token ids to calibrate on; some 10,000 tokens are plenty for a
            small model, 100,000 to 300,000 are customary for a large one. `nearest` needs none.
        kind: `int4`, `int8` or `fp8`.
        method: `gptq` (Frantar et al. 2022), `awq` (Lin et al. 2023) or `nearest`.
        damping: of gptq: share of the inputs' mean square that is added to each input's.
        progress: show a bar by layers.

    Raises:
        ConfigError: a kind, method or damping that there is not.
        RequestError: no text for gptq or awq, or a wrong one.
        UnsupportedError: the weights are rounded already, or lie on a mesh.
    """
    _check(llm, kind, method, damping)
    ids = [
        checked_token_ids(llm.encode(text), llm.config.vocab_size)
        for text in (as_prompts(texts) if len(texts) else ())
    ]
    if method != "nearest" and not ids:
        raise RequestError(f"{method} needs texts to calibrate on, and there are none; give some")
    params = llm.params
    layers = list(params.layers)
    for index in tqdm(range(len(layers)), desc="quantize", unit="layer", disable=not progress):
        grams: dict[str, np.ndarray] = {}
        if method != "nearest":
            behind = replace(params, layers=tuple(layers[: index + 1]))
            grams = _grams(llm.config, behind, ids)
        layers[index] = _rounded(layers[index], grams, kind, damping if method == "gptq" else None)
    engine = replace(llm.engine_config, quantization=kind)
    return llm.alike(llm.config, replace(params, layers=tuple(layers)), engine)


def _check(llm: LLM, kind: str, method: str, damping: float) -> None:
    refuse_quantized(llm.params, "quantize")
    if llm.engine_config.mesh is not None:
        raise UnsupportedError(
            "quantize runs on one device; load the model without EngineConfig.mesh"
        )
    if kind not in QUANTIZATIONS or method not in METHODS:
        raise ConfigError(
            f"quantize has kind {kind!r} and method {method!r}; choose a kind of "
            f"{', '.join(QUANTIZATIONS)} and a method of {', '.join(METHODS)}"
        )
    if isinstance(damping, bool) or not isinstance(damping, int | float) or not 0 < damping <= 1:
        raise ConfigError(f"damping is {damping!r}; it must be a number above 0 and at most 1")


def _grams(
    config: ModelConfig, params: Params, texts: Sequence[tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """`x^T x` by parameter of the last layer."""
    watch = Watch()
    last = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _watched(_name(path), leaf, watch), params.layers[-1]
    )
    params = replace(params, layers=(*params.layers[:-1], last))
    config = replace(config, layers=config.layers[: len(params.layers)])
    for ids in texts:
        watch.num_tokens = len(ids)
        tokens, positions = padded_tokens(ids)
        forward(params, tokens, positions, None, config=config, attend=dense_attention)
    return watch.grams


def _name(path: tuple[Any, ...]) -> str:
    """A parameter of a layer, as the paths of a model's parameters end."""
    return f"layer.{path_name(path)}"


def _watched(path: str, leaf: Any, watch: Watch) -> Any:
    if not is_one_matrix(path, leaf.shape):
        return leaf
    flat = leaf.reshape(flat_shape(path, leaf.shape))
    return WatchedMatrix(
        flat, None, shape=leaf.shape, dtype=str(leaf.dtype), name=path, watch=watch
    )


def _rounded(
    layer: LayerParams, grams: dict[str, np.ndarray], kind: str, damping: float | None
) -> LayerParams:
    """A layer by GPTQ, or, without a damping, by AWQ; to nearest what has no gram matrix."""

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        name = _name(path)
        if not quantises(name):
            return leaf
        host = np.asarray(leaf.astype(jnp.float32))
        if name not in grams:
            return jax.device_put(quantise(name, host, str(leaf.dtype), kind))
        flat = host.reshape(flat_shape(name, host.shape))
        kept, group = kept_as(flat.shape[0], kind)
        if damping is None:
            found = awq(flat, grams[name], kept, group)
        else:
            found = (*gptq(flat, grams[name], kept, group, damping), None)
        values, scales, factors = found
        made = matrix_of(values, scales, kept, host.shape, str(leaf.dtype), factors)
        return jax.device_put(made)

    return jax.tree_util.tree_map_with_path(one, layer)
