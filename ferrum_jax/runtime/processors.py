"""Whether a request's logits processors can run, told before anything is scheduled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ferrum_jax.runtime.taps.lanes import processor_kind
from ferrum_jax.types import RequestError


def check_processors(
    processors: Sequence[Any], vocab_size: int, num_tokens: int, known: set[Any]
) -> None:
    """Trace processors of new kinds once; kinds that pass are added to `known`.

    Raises:
        RequestError: one cannot be traced, or does not return logits.
    """
    for processor in processors:
        kind = processor_kind(processor)
        if kind in known:
            continue
        logits = jax.ShapeDtypeStruct((vocab_size,), jnp.float32)
        tokens = jax.ShapeDtypeStruct((num_tokens,), jnp.int32)
        length = jax.ShapeDtypeStruct((), jnp.int32)
        try:
            out = jax.eval_shape(processor, logits, tokens, length)
        except Exception as error:
            raise RequestError(
                f"the logits processor {processor.func!r} cannot be traced as (logits [V], tokens "
                f"[L], length) -> logits [V]: {error}"
            ) from error
        found = (getattr(out, "shape", None), getattr(out, "dtype", None))
        if found != ((vocab_size,), jnp.float32):
            raise RequestError(
                f"the logits processor {processor.func!r} returns shape {found[0]} and dtype "
                f"{found[1]}; it must return float32 logits of shape ({vocab_size},)"
            )
        known.add(kind)
