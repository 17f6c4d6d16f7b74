"""Feed-forward blocks: dense and mixture of experts.

Dimension key: T tokens, D model, F ffn, E experts, J experts per token.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ferrum_jax.models.params import MLPParams, MoEParams
from ferrum_jax.types import Activation, MLPConfig, MoEConfig

Tap = Callable[[str, Array], Array]

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    Activation.SILU: jax.nn.silu,
    Activation.GELU: lambda x: jax.nn.gelu(x, approximate=False),
    Activation.GELU_TANH: lambda x: jax.nn.gelu(x, approximate=True),
    Activation.QUICK_GELU: lambda x: x * jax.nn.sigmoid(1.702 * x),
    Activation.RELU: jax.nn.relu,
    Activation.RELU_SQUARED: lambda x: jnp.square(jax.nn.relu(x)),
}


def mlp(
    x: Float[Array, "T D"], params: MLPParams, spec: MLPConfig, tap: Tap
) -> Float[Array, "T D"]:
    """`act(x gate) * (x up)` or `act(x up)`, then down. Sites: mlp_pre, mlp_post."""
    # `TD,DUF->TUF`, written as the plain matmul that XLA runs fastest on a CPU.
    y_TUF = (x @ params.gate_up.reshape(x.shape[-1], -1)).reshape(-1, *params.gate_up.shape[1:])
    if params.gate_up_bias is not None:
        y_TUF = y_TUF + params.gate_up_bias
    hidden = ACTIVATIONS[spec.activation](tap("mlp_pre", y_TUF[:, 0]))
    if spec.gated:
        hidden = hidden * y_TUF[:, 1]
    out = jnp.einsum("TF,FD->TD", tap("mlp_post", hidden), params.down)
    return out if params.down_bias is None else out + params.down_bias


def moe(
    x: Float[Array, "T D"], params: MoEParams, spec: MoEConfig, tap: Tap
) -> Float[Array, "T D"]:
    """Each token through its k best experts, none dropped. Site: router (fp32 logits `[T, E]`).

    Tokens are sorted by expert, so that every expert is one block of a grouped matmul.
    """
    logits = jnp.einsum("TD,DE->TE", x, params.router, preferred_element_type=jnp.float32)
    probs = jax.nn.softmax(tap("router", logits.astype(jnp.float32)), axis=-1)
    weights_TJ, experts_TJ = jax.lax.top_k(probs, spec.experts_per_token)
    if spec.norm_topk:
        weights_TJ = weights_TJ / jnp.sum(weights_TJ, axis=-1, keepdims=True)

    order = jnp.argsort(experts_TJ.reshape(-1), stable=True)
    sizes_E = jnp.bincount(experts_TJ.reshape(-1), length=spec.num_experts).astype(jnp.int32)
    rows = x[order // spec.experts_per_token]
    act = ACTIVATIONS[spec.activation]
    hidden = act(jax.lax.ragged_dot(rows, params.gate, sizes_E))
    hidden = hidden * jax.lax.ragged_dot(rows, params.up, sizes_E)
    out = jax.lax.ragged_dot(hidden, params.down, sizes_E)
    out = out * weights_TJ.reshape(-1)[order, None].astype(out.dtype)
    out_TJD = out[jnp.argsort(order)].reshape(*experts_TJ.shape, -1)
    return jnp.sum(out_TJD, axis=1)
