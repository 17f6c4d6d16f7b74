"""From lm-eval's `--model_args` to an LLM."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ferrum_jax.models.weights.hub import resolve_checkpoint
from ferrum_jax.models.weights.load import load_config
from ferrum_jax.research.lm_eval.scoring import EXTRA_TOKENS
from ferrum_jax.runtime.devices import device_info
from ferrum_jax.runtime.directory import DEMO_MODEL
from ferrum_jax.runtime.lengths import length_bound
from ferrum_jax.runtime.llm import LLM
from ferrum_jax.types import EngineConfig, ModelConfig, RequestError

ENGINE = ("max_num_seqs", "max_num_batched_tokens", "num_pages", "kv_dtype", "batch_invariant")
"""Arguments that are those of `EngineConfig`."""
OTHERS = (
    "pretrained",
    "dtype",
    "max_length",
    "max_gen_toks",
    "add_bos_token",
    "prefix_token_id",
    "seed",
)
UNASKED = (None, "cuda", "cuda:0")
"""What lm-eval gives as the device where nobody asked for one, whatever the machine has."""


def load(
    pretrained: str, dtype: str | None, max_length: int | None, engine: Mapping[str, Any]
) -> LLM:
    """The model of a checkpoint, with an engine for `max_length` tokens (None: all of its own).

    Raises:
        FerrumError: as `LLM.load` and `EngineConfig`.
    """
    directory = DEMO_MODEL if pretrained == "demo" else resolve_checkpoint(pretrained)
    length = own_length(load_config(directory)) if max_length is None else max_length
    settings = EngineConfig(max_model_len=length + EXTRA_TOKENS, **engine)
    return LLM.load(directory, dtype or "float32", engine=settings)


def check_settled(dtype: str | None, engine: Mapping[str, Any]) -> None:
    """Raise `RequestError` if something is asked for that a given LLM has settled already."""
    named = [*(["dtype"] if dtype is not None else []), *engine]
    if named:
        raise RequestError(
            f"{', '.join(named)} cannot be set here, for an LLM was given; load it so, with "
            "LLM.load(..., dtype=..., engine=EngineConfig(...))"
        )


def length_of(llm: LLM) -> int:
    """How many tokens the model of an LLM may see: its own length, or what its engine holds."""
    return min(own_length(llm.config), llm.max_model_len - EXTRA_TOKENS)


def own_length(config: ModelConfig) -> int:
    """How many tokens a model may see, as lm-eval's `hf` model takes it from config.json.

    A rope that depends on the length is kept as it is up to its trained length.
    """
    bound = length_bound(config)
    return config.max_positions if bound is None else bound - EXTRA_TOKENS


def check_known(given: Mapping[str, Any]) -> None:
    """Raise `RequestError` unless every argument is one of `ENGINE`."""
    unknown = sorted(set(given) - set(ENGINE))
    if not unknown:
        return
    known = (*OTHERS, *ENGINE)
    close = [match for name in unknown for match in get_close_matches(name, known, n=1)]
    hint = f" (did you mean {', '.join(close)}?)" if close else ""
    raise RequestError(
        f"model arguments that are unknown: {', '.join(unknown)}{hint}; the known ones are "
        f"{', '.join(known)}"
    )


def check_lm_evals(batch_size: Any, max_batch_size: Any, device: Any) -> None:
    """Warn of, or refuse, what lm-eval's own command line asks for and an engine cannot follow.

    Raises:
        RequestError: another device than the one that jax runs on.
    """
    default = batch_size is None or str(batch_size) == "1" or str(batch_size).startswith("auto")
    if max_batch_size is not None or not default:
        warnings.warn(
            f"batch_size = {batch_size} and max_batch_size = {max_batch_size} are not used: the "
            "engine batches by itself, up to the model arguments max_num_seqs and "
            "max_num_batched_tokens",
            stacklevel=3,
        )
    if device in UNASKED:
        return
    platform = device_info().platform
    if str(device).removesuffix(":0") != platform:
        raise RequestError(
            f"device is {device!r}, and jax runs on its first {platform}; leave it out, and set "
            "JAX_PLATFORMS (or CUDA_VISIBLE_DEVICES) to choose another"
        )
