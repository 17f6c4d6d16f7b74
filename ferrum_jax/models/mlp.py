"""Dense feed-forward blocks.

Dimension key: T tokens, D model, U = 2 with a gate and 1 without, F ffn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ferrum_jax.models.params import MLPParams
from ferrum_jax.models.taps import LayerTap
from ferrum_jax.types import Activation, MLPConfig

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    Activation.SILU: jax.nn.silu,
    Activation.GELU: lambda x: jax.nn.gelu(x, approximate=False),
    Activation.GELU_TANH: lambda x: jax.nn.gelu(x, approximate=True),
    Activation.QUICK_GELU: lambda x: x * jax.nn.sigmoid(1.702 * x),
    Activation.RELU: jax.nn.relu,
    Activation.RELU_SQUARED: lambda x: jnp.square(jax.nn.relu(x)),
}
"""All but xIELU, which has parameters."""
XIELU_BETA, XIELU_EPS = 0.5, -1e-6


def mlp(
    x: Float[Array, "T D"], params: MLPParams, spec: MLPConfig, tap: LayerTap
) -> Float[Array, "T D"]:
    """`act(x gate) * (x up)` or `act(x up)`, then down. Sites: mlp_pre, mlp_post."""
    y_TUF = _joined(x, params.gate_up)
    y_TUF = tap.adapted("gate_up", x, y_TUF)
    if params.gate_up_bias is not None:
        y_TUF = y_TUF + params.gate_up_bias
    gate = y_TUF[:, 0] if spec.gate_scale == 1.0 else y_TUF[:, 0] * spec.gate_scale
    gate = tap("mlp_pre", gate)
    if spec.activation is Activation.XIELU:
        hidden = xielu(gate, params.alpha)
    else:
        hidden = ACTIVATIONS[spec.activation](gate)
    if spec.gated:
        hidden = hidden * y_TUF[:, 1]
    hidden = tap("mlp_post", hidden)
    out = tap.adapted("down", hidden, hidden @ params.down)
    out = out if params.down_bias is None else out + params.down_bias
    return out if spec.down_scale == 1.0 else out * spec.down_scale


def _joined(x: Float[Array, "T D"], weights: Any) -> Float[Array, "T U F"]:
    """`TD,DUF->TUF`. Of an array it is not written as a matmul of `[D, U x F]`: XLA makes that of
    it by itself, but could not divide F over devices then."""
    if isinstance(weights, jax.Array):
        return jnp.tensordot(x, weights, 1)
    return (x @ weights.reshape(x.shape[-1], -1)).reshape(-1, *weights.shape[1:])


def xielu(x: Array, alpha: Float[Array, " 2"]) -> Array:
    """`a x^2 + x / 2` above zero, `b (e^x - 1) - b x + x / 2` below (Huang and Schlag 2024), with
    a = softplus(alpha[0]) and b = 1/2 + softplus(alpha[1]); in fp32."""
    positive, negative = jax.nn.softplus(alpha.astype(jnp.float32))
    x32 = x.astype(jnp.float32)
    below = (jnp.expm1(jnp.minimum(x32, XIELU_EPS)) - x32) * (XIELU_BETA + negative)
    out = jnp.where(x32 > 0, positive * jnp.square(x32), below) + XIELU_BETA * x32
    return out.astype(x.dtype)
