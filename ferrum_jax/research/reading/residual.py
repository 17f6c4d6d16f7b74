"""One layer of the residual stream as a sum, seen from one direction behind it.

A layer adds what its attention, its recurrence and its feed-forward block say. With the scales of
its norms frozen at their values in this forward all of it is linear: a direction behind the layer
has one before it, and each part its inner product. A norm without its bias is `A x / scale`, so
that `direction . norm(x) = (A' direction) . x / scale + direction . bias`.

Dimension key: N heads, H head, D model. float32 numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ferrum_jax.models.norm import normalise
from ferrum_jax.models.params import LayerParams, NormParams
from ferrum_jax.models.sites import site_shape
from ferrum_jax.types import LayerSpec, ModelConfig, NormKind, NormPlacement

STREAM = ("resid_pre", "resid_mid", "resid_post", "z", "attn_out", "mixer_out", "mlp_out")
"""The sites that the terms of a layer are made of."""

Vector = Float[np.ndarray, " D"]


@dataclass(frozen=True, eq=False)
class LayerTerms:
    """A layer's parts of `direction . x` behind it."""

    heads: Float[np.ndarray, " N"]
    """No entries where the layer has no attention."""
    attention_bias: float
    mixer: float
    mlp: float
    norm_bias: float
    before: Vector
    """The direction before the layer."""

    @property
    def total(self) -> float:
        """The sum of the parts."""
        parts = self.attention_bias + self.mixer + self.mlp + self.norm_bias
        return float(self.heads.sum()) + parts


def stream_sites(config: ModelConfig) -> tuple[str, ...]:
    """Those of `STREAM` that a model has."""
    layers = range(config.num_layers)
    return tuple(s for s in STREAM if any(site_shape(config, s, i) is not None for i in layers))


def layer_terms(
    spec: LayerSpec, p: LayerParams, eps: float, at: dict[str, np.ndarray], direction: Vector
) -> LayerTerms:
    """The parts of one layer at one token, whose activations by site `at` holds."""
    if p.scalar is not None:
        direction = direction * fp32(p.scalar)
    entered = at["resid_pre"]
    to_mixers, constant = direction, 0.0
    heads, bias, mixer, mlp = np.zeros(0, np.float32), 0.0, 0.0, 0.0
    if spec.mlp is not None:
        own = p.mixer_norm if spec.shared_norm else p.mlp_norm
        stream, out = at.get("resid_mid", entered), at["mlp_out"]
        sum_ = _Sum(spec, eps, spec.mlp_residual_scale, own, p.mlp_post_norm)
        to_mlp, direction, shift = sum_.back(stream, out, direction)
        mlp, constant = float(out @ to_mlp), constant + shift
    outs = [at[site] for site in ("attn_out", "mixer_out") if site in at]
    if outs and not spec.parallel:
        sum_ = _Sum(spec, eps, spec.mixer_residual_scale, p.mixer_norm, p.mixer_post_norm)
        to_mixers, direction, shift = sum_.back(entered, np.sum(outs, axis=0), direction)
        constant += shift
    if spec.attention is not None:
        heads, bias = _attention(spec, p, eps, at["z"], to_mixers)
    if spec.recurrent is not None:
        mixer = float(at["mixer_out"] @ to_mixers)
    return LayerTerms(heads, bias, mixer, mlp, constant, direction)


@dataclass(frozen=True)
class _Sum:
    """`x -> scale * x + out`, as a layer forms it: of the normed stream where the layer says so,
    and normed itself where its norms stand behind the sums."""

    spec: LayerSpec
    eps: float
    scale: float
    base_norm: NormParams | None
    post_norm: NormParams | None

    def back(self, x: Vector, out: Vector, direction: Vector) -> tuple[Vector, Vector, float]:
        """The direction of `out`, that of `x`, and what the norms' biases give."""
        kind, base, constant = self.spec.norm, None, 0.0
        if self.spec.residual_from_norm:
            base = self.base_norm
        if self.spec.placement is NormPlacement.AFTER_SUM and self.post_norm is not None:
            start = x if base is None else fp32(normalise(jnp.asarray(x), base, kind, self.eps))
            constant += _shift(self.post_norm, direction)
            whole = self.scale * start + out
            direction = through(whole, self.post_norm, kind, self.eps, direction)
        entering = self.scale * direction
        if base is not None:
            constant += _shift(base, entering)
            entering = through(x, base, kind, self.eps, entering)
        return direction, entering, constant


def _attention(
    spec: LayerSpec, p: LayerParams, eps: float, z_NH: np.ndarray, direction: Vector
) -> tuple[Float[np.ndarray, " N"], float]:
    """The heads and the bias, through the norm behind attention where there is one."""
    direction = spec.attention_scale * direction
    heads_ND = np.einsum("NH,NHD->ND", z_NH, fp32(p.attention.o))
    bias_D = np.zeros_like(direction)
    if p.attention.o_bias is not None:
        bias_D = fp32(p.attention.o_bias)
    post, shift = p.mixer_post_norm, 0.0
    if post is not None and spec.placement is not NormPlacement.AFTER_SUM:
        shift = _shift(post, direction)
        direction = through(heads_ND.sum(0) + bias_D, post, spec.norm, eps, direction)
    return heads_ND @ direction, float(bias_D @ direction) + shift


def through(x: Vector, norm: NormParams, kind: NormKind, eps: float, direction: Vector) -> Vector:
    """The direction before a norm that is `direction` behind it, with the scale of `x` frozen."""
    if norm.weight is not None:
        direction = (fp32(norm.weight) + kind.unit_offset) * direction
    if kind.centred:
        x, direction = x - x.mean(), direction - direction.mean()
    return direction / np.sqrt(np.mean(np.square(x)) + np.float32(eps))


def _shift(norm: NormParams, direction: Vector) -> float:
    return 0.0 if norm.bias is None else float(fp32(norm.bias) @ direction)


def fp32(x: Any) -> np.ndarray:
    """As float32 on the host."""
    return np.asarray(x, np.float32)
