"""GPTQ (Frantar et al. 2022): round input by input, and let the later ones make up for it.

What is minimised is the output's squared error over the calibration's inputs, `|x (w - q)|^2`. With
`H = x^T x` and `H^-1 = U^T U`, U upper triangular, the best change of the inputs behind input i,
when i is rounded with error e, is `- e U[i, i:] / U[i, i]`. (Cholesky's form, section 3.3 there.)

Dimension key: I inputs, O outputs, G groups of inputs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ferrum_jax.models.quantized import nearest, scales_of
from ferrum_jax.types import RequestError

BLOCK = 128
"""Inputs whose changes reach the inputs behind them together; groups are never longer."""


def gptq(
    weights: Float[np.ndarray, "I O"],
    gram: Float[np.ndarray, "I I"],
    kind: str,
    group: int | None,
    damping: float,
) -> tuple[Float[np.ndarray, "I O"], np.ndarray]:
    """Values of `kind` and their scales, `[O]`, or `[G, O]` of groups: `scale * value` is a weight.

    Args:
        gram: `x^T x` of the inputs that the matrix is given.
        group: consecutive inputs that share a scale; None: all.
        damping: share of the gram matrix's mean diagonal that is added to its diagonal.

    Raises:
        RequestError: the gram matrix is not finite, or has no inverse even so.
    """
    inputs, outputs = weights.shape
    upper = _upper(gram, damping)
    w = np.where(np.diag(gram)[:, None] > 0, weights, 0).astype(np.float32)
    values = np.empty_like(w)
    scales = np.empty((1 if group is None else inputs // group, outputs), np.float32)
    if group is None:
        scales[0] = scales_of(w, kind)
    for first in range(0, inputs, BLOCK):
        last = min(first + BLOCK, inputs)
        errors = np.empty((last - first, outputs), np.float32)
        for i in range(first, last):
            if group is not None and i % group == 0:
                scales[i // group] = scales_of(w[i : i + group], kind)
            scale = scales[0 if group is None else i // group]
            values[i] = nearest(w[i] / np.where(scale != 0, scale, 1), kind)
            errors[i - first] = (w[i] - values[i] * scale) / upper[i, i]
            w[i + 1 : last] -= np.outer(upper[i, i + 1 : last], errors[i - first])
        w[last:] -= upper[first:last, last:].T @ errors
    return values, scales[0] if group is None else scales


def _upper(gram: np.ndarray, damping: float) -> Float[np.ndarray, "I I"]:
    """U of the damped matrix's inverse, in fp32. An input that is always 0 does not matter."""
    damped = gram.astype(np.float64)
    diagonal = np.diag(damped).copy()
    if not np.isfinite(damped).all():
        raise RequestError("the calibration gives activations that are not finite")
    diagonal[diagonal == 0] = 1
    damped[np.diag_indices_from(damped)] = diagonal + damping * diagonal.mean()
    try:
        inverse = np.linalg.inv(damped)
        return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    except np.linalg.LinAlgError as error:
        raise RequestError(
            f"damping = {damping} leaves the inputs' matrix without an inverse; raise it, or "
            "calibrate on more text"
        ) from error
