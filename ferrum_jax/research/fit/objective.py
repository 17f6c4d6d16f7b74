"""The loss of a batch under a trainable's value.

Dimension key: B rows of a batch, S tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ferrum_jax.attention import dense_attention_of_rows
from ferrum_jax.models import Params, forward, unembed
from ferrum_jax.research.fit.texts import Batch
from ferrum_jax.research.fit.trainable import Trainable, Value
from ferrum_jax.types import ModelConfig, Place

Loss = Callable[[Array, Array, Array], Array]
"""`loss(logits [B, S, V], tokens [B, S], mask [B, S]) -> scalar`. The logits at s predict the token
at s + 1; `mask` is 1 for the tokens whose prediction counts, and 0 for padding."""


def next_token_loss(
    logits: Float[Array, "B S V"], tokens: Int[Array, "B S"], mask: Float[Array, "B S"]
) -> Float[Array, ""]:
    """Mean cross entropy of the tokens that count, in nats."""
    nats = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    return jnp.sum(nats * mask[:, 1:]) / jnp.sum(mask[:, 1:])


def batch_loss(
    value: Value,
    params: Params,
    batch: Batch,
    *,
    config: ModelConfig,
    trainable: Trainable,
    loss: Loss,
    remat: bool,
) -> Float[Array, ""]:
    """The loss of a batch, all rows in one ragged forward."""
    rows, length = batch.tokens.shape
    flat = jax.tree_util.tree_map(lambda x: jnp.asarray(x).reshape(-1), batch)
    place = Place(jnp.zeros_like(flat.positions), flat.positions, flat.prompt_lens)
    taps = trainable.taps(value).replace(place=place)  # type: ignore[attr-defined]
    params = trainable.merge(config, params, value)
    hidden, _ = forward(
        params,
        flat.tokens,
        flat.positions,
        None,
        config=config,
        attend=dense_attention_of_rows(rows),
        taps=taps,
        remat=remat,
    )

    def worth(params: Params, hidden: Array, taps) -> Array:
        logits = unembed(params, hidden, config, taps=taps)
        return loss(logits.reshape(rows, length, -1), batch.tokens, batch.mask)

    return (jax.checkpoint(worth) if remat else worth)(params, hidden, taps)
