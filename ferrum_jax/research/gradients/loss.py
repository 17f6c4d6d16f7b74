"""The next-token loss as a pure function of weights, tokens and taps: `fj.loss`.

Dimension key: T tokens of all texts end to end, D model, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num

from ferrum_jax.attention import dense_attention
from ferrum_jax.interfaces import Attend
from ferrum_jax.models import Params, forward, unembed
from ferrum_jax.models.decoder import NO_TAPS
from ferrum_jax.models.taps import placed
from ferrum_jax.types import ModelConfig, RequestError, Taps

REDUCTIONS = ("mean", "sum", "none")


def loss(
    params: Params,
    tokens: Int[Array, " T"],
    *,
    config: ModelConfig,
    taps: Taps = NO_TAPS,
    mask: Num[Array, " _"] | None = None,
    positions: Int[Array, " _"] | None = None,
    attend: Attend = dense_attention,
    remat: bool = False,
    reduction: str = "mean",
) -> Float[Array, "..."]:  # noqa: UP037 (a shape, not a type)
    """Cross entropy of each token given those before it, in nats, fp32.

    An ordinary function for `jax.jit` and `jax.grad`: to `params`, or to what `taps` holds (see
    `value_and_float_grad`). To differentiate to the embeddings of these tokens alone, use
    `activation_gradients` with the site `resid_pre` of layer 0.

    Args:
        tokens: of one text, or of several end to end.
        taps: edits of the model; those of the logits count too.
        mask: how much each token counts as one that is predicted: zeros and ones, or weights. The
            first token of a text is predicted by nothing and never counts. None: all others do.
        positions: a text starts wherever a position does not follow the one before it. Padding of
            position 0 counts nowhere. None: one text.
        remat: compute each layer and the logits again for the gradient in place of keeping them.
        reduction: `mean` over what counts, by weight (nan where nothing does); `sum`; or `none`:
            `[T]`, each token's own nats, 0 where it does not count.

    Raises:
        RequestError: fewer than two tokens, another reduction, or lengths that differ.
        ModelError: `taps` captures, or names a site that is never reached.
    """
    tokens = jnp.asarray(tokens)
    _check(tokens, mask, positions, reduction)
    positions = jnp.arange(tokens.shape[0]) if positions is None else jnp.asarray(positions)
    taps = placed(taps, positions)
    hidden, _ = forward(
        params, tokens, positions, None, config=config, attend=attend, taps=taps, remat=remat
    )

    def nats_of(params: Params, hidden: Array, taps: Taps) -> Array:
        logits = unembed(params, hidden, config, taps=taps)
        return optax.softmax_cross_entropy_with_integer_labels(logits[:-1], tokens[1:])

    # Logits are most of what a gradient keeps where the vocabulary is large.
    nats = (jax.checkpoint(nats_of) if remat else nats_of)(params, hidden, taps)
    weights = (positions[1:] == positions[:-1] + 1).astype(jnp.float32)
    if mask is not None:
        weights = weights * jnp.asarray(mask)[1:]
    if reduction == "none":
        return jnp.pad(nats * weights, (1, 0))
    total = jnp.sum(nats * weights)
    return total if reduction == "sum" else total / jnp.sum(weights)


def _check(tokens: Array, mask: Array | None, positions: Array | None, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise RequestError(f"reduction is {reduction!r}; choose one of {', '.join(REDUCTIONS)}")
    if tokens.ndim != 1 or tokens.shape[0] < 2:
        raise RequestError(
            f"tokens has shape {tokens.shape}; give the ids of at least two tokens on one axis, "
            "several texts end to end"
        )
    for name, given in (("mask", mask), ("positions", positions)):
        if given is not None and jnp.shape(given) != tokens.shape:
            raise RequestError(
                f"{name} has shape {jnp.shape(given)} for {tokens.shape[0]} tokens; give one each"
            )
