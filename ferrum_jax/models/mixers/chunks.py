"""What recurrent mixers share: the causal convolution, and linear recurrences in matrix form.

All in fp32. Dimension key: C tokens of a tile, W convolution taps, N heads, K key elements of a
head, V value elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ferrum_jax.models.ragged import Chunk, Tile


class Run(Protocol):
    """Takes a chunk function along the sequences, and names activations."""

    def __call__(self, chunk: Chunk, inputs_T: Any) -> Any:
        """The outputs of all tokens; the states go into the cache."""
        ...

    def tap(self, site: str, x: Array) -> Array:
        """The activation as those who look at the site leave it."""
        ...


def causal_conv(
    x_CD: Float[Array, "C D"],
    before_WD: Float[Array, "W1 D"],
    weight_WD: Float[Array, "W D"],
    bias_D: Float[Array, " D"] | None,
    tile: Tile,
) -> tuple[Float[Array, "C D"], Float[Array, "W1 D"]]:
    """A depthwise convolution over each token and the W - 1 before it in its sequence.

    Returns:
        The sums, and the last W - 1 inputs for the next tile.
    """
    taps, count = weight_WD.shape[0], x_CD.shape[0]
    joined = jnp.concatenate([before_WD, x_CD.astype(jnp.float32)])
    segments = jnp.concatenate([jnp.zeros(taps - 1, tile.segments.dtype), tile.segments])
    out = jnp.zeros(x_CD.shape, jnp.float32)
    for tap in range(taps):
        same = segments[tap : tap + count] == tile.segments
        out += jnp.where(same[:, None], joined[tap : tap + count] * weight_WD[tap], 0.0)
    if bias_D is not None:
        out += bias_D
    kept = jax.lax.dynamic_slice_in_dim(joined, tile.count, taps - 1)
    kept_segments = jax.lax.dynamic_slice_in_dim(segments, tile.count, taps - 1)
    after = jnp.where((kept_segments == tile.last_segment)[:, None], kept, 0.0)
    return out, after


def decayed_attention(
    q_CNK: Array,
    k_CNK: Array,
    v_CNV: Array,
    log_decay_CN: Array,
    state_NKV: Array,
    tile: Tile,
) -> tuple[Float[Array, "C N V"], Float[Array, "N K V"]]:
    """`S = exp(decay) S + k v^T; o = q^T S`, over a tile at once (Dao and Gu 2024, section 6).

    Returns:
        o, and S behind the tile.
    """
    total_CN = _running(log_decay_CN, tile)
    weights_NCC = _decay(total_CN, tile) * jnp.einsum("CNK,SNK->NCS", q_CNK, k_CNK)
    out = jnp.einsum("NCS,SNV->CNV", weights_NCC, v_CNV)
    first_CN = _from_state(total_CN, tile)
    out += jnp.einsum("CNK,NKV->CNV", q_CNK * first_CN[:, :, None], state_NKV)
    last_CN, kept_N = _to_state(total_CN, tile)
    added = jnp.einsum("CNK,CNV->NKV", k_CNK * last_CN[:, :, None], v_CNV)
    return out, kept_N[:, None, None] * state_NKV + added


def delta_rule(
    q_CNK: Array,
    k_CNK: Array,
    v_CNV: Array,
    beta_CN: Array,
    log_decay_CNK: Array,
    state_NKV: Array,
    tile: Tile,
) -> tuple[Float[Array, "C N V"], Float[Array, "N K V"]]:
    """`S = exp(decay) S; S += k beta (v - k^T S)^T; o = q^T S`, over a tile at once.

    What each token adds depends on what those before it added: one triangular system per head
    (Yang et al. 2024, "Parallelizing linear transformers with the delta rule"). `log_decay` has
    one value per head (its last axis 1), or one per key element.
    """
    total_CNK = _running(log_decay_CNK, tile)
    weighed = _pairs(total_CNK, tile)
    first_CNK = _from_state(total_CNK, tile)
    beta_CN = jnp.where(tile.valid[:, None], beta_CN, 0.0)
    keys_NCS = weighed(k_CNK, k_CNK) * beta_CN.T[:, :, None]
    count = q_CNK.shape[0]
    lower_NCS = jnp.where(jnp.tri(count, k=-1, dtype=bool), keys_NCS, 0.0)
    known_CNV = v_CNV - jnp.einsum("CNK,NKV->CNV", k_CNK * first_CNK, state_NKV)
    wanted_NCV = jnp.swapaxes(known_CNV * beta_CN[:, :, None], 0, 1)
    added_NCV = jax.scipy.linalg.solve_triangular(
        lower_NCS + jnp.eye(count), wanted_NCV, lower=True, unit_diagonal=True
    )
    out = jnp.einsum("NCS,NSV->CNV", weighed(q_CNK, k_CNK), added_NCV)
    out += jnp.einsum("CNK,NKV->CNV", q_CNK * first_CNK, state_NKV)
    last_CNK, kept_NK = _to_state(total_CNK, tile)
    state = kept_NK[:, :, None] * state_NKV
    return out, state + jnp.einsum("CNK,NCV->NKV", k_CNK * last_CNK, added_NCV)


def _running(log_decay: Array, tile: Tile) -> Array:
    """Sums of the logarithms of the decays; padding does not decay."""
    shape = (-1, *[1] * (log_decay.ndim - 1))
    return jnp.cumsum(jnp.where(tile.valid.reshape(shape), log_decay, 0.0), axis=0)


def _decay(total_CN: Array, tile: Tile) -> Float[Array, "N C C"]:
    """What is left of a token (column) at a later one of its sequence (row)."""
    distance = total_CN[:, None] - total_CN[None]
    seen = tile.sees[:, :, None]
    # Masked before the exponential: between sequences the distance means nothing, and may overflow.
    return jnp.transpose(jnp.where(seen, jnp.exp(jnp.where(seen, distance, 0.0)), 0.0), (2, 0, 1))


def _pairs(total_CNK: Array, tile: Tile) -> Callable[[Array, Array], Float[Array, "N C C"]]:
    """Products of queries with keys, each key as decayed as it is at the query."""
    if total_CNK.shape[-1] == 1:
        decay = _decay(total_CNK[..., 0], tile)
        return lambda q, k: decay * jnp.einsum("CNK,SNK->NCS", q, k)
    distance = total_CNK[:, None] - total_CNK[None]
    seen = tile.sees[:, :, None, None]
    decay = jnp.where(seen, jnp.exp(jnp.where(seen, distance, 0.0)), 0.0)
    return lambda q, k: jnp.einsum("CNK,CSNK,SNK->NCS", q, decay, k)


def _from_state(total: Array, tile: Tile) -> Array:
    """What is left at each token of the state that the tile begins with."""
    goes_on = (tile.segments == 0).reshape(-1, *[1] * (total.ndim - 1))
    return jnp.where(goes_on, jnp.exp(total), 0.0)


def _to_state(total: Array, tile: Tile) -> tuple[Array, Array]:
    """What is left behind the tile of each token, and of the state that it began with."""
    counts = tile.valid & (tile.segments == tile.last_segment)
    counts = counts.reshape(-1, *[1] * (total.ndim - 1))
    left = jnp.where(counts, jnp.exp(jnp.where(counts, total[-1] - total, 0.0)), 0.0)
    return left, jnp.where(tile.last_segment == 0, jnp.exp(total[-1]), 0.0)


def gated_norm(
    y: Float[Array, "*b D"],
    gate: Float[Array, "*b D"],
    weight: Float[Array, "*w D"] | None,
    eps: float,
    *,
    gate_first: bool,
    activation: Callable[[Array], Array] = jax.nn.silu,
) -> Float[Array, "*b D"]:
    """RMS norm over the last axis and the gate, in either order; fp32."""
    y, gated = y.astype(jnp.float32), activation(gate.astype(jnp.float32))
    if gate_first:
        y = y * gated
    y = y / jnp.sqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    if weight is not None:
        y = y * weight.astype(jnp.float32)
    return y if gate_first else y * gated


def unit_length(x: Float[Array, "*b K"], eps: float = 1e-6) -> Float[Array, "*b K"]:
    """x / |x| over the last axis, in fp32."""
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + eps)
