"""AWQ (Lin et al. 2023): inputs that are large get finer steps, and a group may be cut short.

A matrix is multiplied by a factor per input before it is rounded, and its inputs by the inverse:
`x w = (x / s) (s w)`. The factors are `s = size^a`, size an input's root mean square, and `a` the
one of 20 whose output is nearest. Then every group of inputs of an output takes the scale, at most
its own, whose part of the output is nearest; what lies beyond the largest value is cut.

Both errors are `tr(e^T H e)` with `H = x^T x` of the calibration's inputs: the squared error of the
output itself, so no input is run again.

Dimension key: I inputs, O outputs, G groups of inputs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ferrum_jax.models.quantized import nearest, scales_of
from ferrum_jax.types import RequestError

POWERS = np.linspace(0, 0.95, 20)
CUTS = np.linspace(1, 0.5, 11)
"""Shares of a group's own scale that are tried."""


def awq(
    weights: Float[np.ndarray, "I O"],
    gram: Float[np.ndarray, "I I"],
    kind: str,
    group: int | None,
) -> tuple[Float[np.ndarray, "I O"], np.ndarray, Float[np.ndarray, " I"]]:
    """Values of `kind`, their scales, `[O]` or `[G, O]` of groups, and the factors `[I]` of inputs:
    `factor * scale * value` is a weight.

    Args:
        gram: `x^T x` of the inputs that the matrix is given.
        group: consecutive inputs that share a scale; None: all.

    Raises:
        RequestError: the gram matrix is not finite.
    """
    if not np.isfinite(gram).all():
        raise RequestError("the calibration gives activations that are not finite")
    gram = (gram / max(np.diag(gram).max(), np.finfo(np.float32).tiny)).astype(np.float32)
    size = np.sqrt(np.diag(gram))
    # An input that is always 0 does not matter, and must not set the others' factors.
    size = np.where(size > 0, size, size[size > 0].min(initial=1)).astype(np.float32)
    best = min((_power_error(weights, gram, size, power, kind, group), power) for power in POWERS)
    s = _factors(size, best[1])
    w, gram = weights * s[:, None], gram / np.outer(s, s)
    groups = _grouped(w, group)
    scales = scales_of(groups, kind)
    scales = scales * _cuts(groups, gram, scales, kind)
    values = nearest(groups / _divisor(scales), kind).reshape(w.shape)
    return values, scales[0] if group is None else scales, 1 / s


def _factors(size: np.ndarray, power: float) -> Float[np.ndarray, " I"]:
    """With the largest and the smallest as far from 1."""
    s = size ** np.float32(power)
    return s / np.sqrt(s.max() * s.min())


def _power_error(
    weights: np.ndarray,
    gram: np.ndarray,
    size: np.ndarray,
    power: float,
    kind: str,
    group: int | None,
) -> float:
    s = _factors(size, power)[:, None]
    groups = _grouped(weights * s, group)
    step = _divisor(scales_of(groups, kind))
    rounded = nearest(groups / step, kind) * step
    error = rounded.reshape(weights.shape) / s - weights
    return float(np.vdot(error, gram @ error))


def _cuts(
    groups: Float[np.ndarray, "G I O"], gram: np.ndarray, scales: np.ndarray, kind: str
) -> Float[np.ndarray, "G O"]:
    """The share of its scale that is best for each group of each output, by itself."""
    count, inputs, _ = groups.shape
    own = np.stack([gram[i : i + inputs, i : i + inputs] for i in range(0, count * inputs, inputs)])
    best, errors = np.ones_like(scales), np.full_like(scales, np.inf)
    for cut in CUTS:
        step = _divisor(scales * np.float32(cut))
        wrong = nearest(groups / step, kind) * step - groups
        error = (wrong * (own @ wrong)).sum(axis=1)
        best = np.where(error < errors, np.float32(cut), best)
        errors = np.minimum(error, errors)
    return best


def _grouped(weights: np.ndarray, group: int | None) -> Float[np.ndarray, "G I O"]:
    return weights.reshape(-1, group or len(weights), weights.shape[1])


def _divisor(scales: np.ndarray) -> np.ndarray:
    """Scales beside groups; where all of a group's weights are 0, 1."""
    return np.where(scales != 0, scales, 1)[:, None, :]
