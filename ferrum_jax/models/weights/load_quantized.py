"""Matrices that a checkpoint stores as the engine would keep them: taken over, not rounded anew."""

from __future__ import annotations

from typing import Any

import numpy as np

from ferrum_jax.interfaces import WeightSource
from ferrum_jax.models.quantized import QuantizedMatrix, flat_shape, kept_as, matrix_of, nearest
from ferrum_jax.models.weights.dequantize.compressed_tensors import CompressedWeights
from ferrum_jax.models.weights.naming import Naming
from ferrum_jax.models.weights.sources import Source


def rounded_as_stored(
    entry: Source,
    key: str,
    shape: tuple[int, ...],
    naming: Naming,
    source: WeightSource,
    kind: str,
    dtype: str,
) -> QuantizedMatrix | None:
    """A parameter out of the values and scales that a checkpoint stores; None: it stores others.

    Of several tensors that make a parameter all must be of the kind, with scales by output channel
    (int8, fp8) or by groups of one size that divides half of the inputs (int4).
    """
    if not isinstance(source, CompressedWeights):
        return None
    values, scales, factors = np.empty(shape, np.float32), np.empty(shape, np.float32), None
    for index, name in enumerate(naming.stored[name] for name in entry.names):
        found = source.rounded(name)
        if found is None:
            return None
        entry.fill(values, index, found[0])
        entry.fill(scales, index, found[1])
        if (given := source.factors(name)) is not None:
            factors = np.ones(shape, np.float32) if factors is None else factors
            entry.fill(factors, index, given)
    flat = flat_shape(key, shape)
    kind, _ = kept_as(flat[-2], kind)
    values, scales = values.reshape(flat), scales.reshape(flat)
    if not np.array_equal(nearest(values, kind), values):
        return None
    if factors is not None:
        factors = factors.reshape(flat)
        if (factors != factors[..., :1]).any():
            return None
        factors = factors[..., 0]
    group = _group(scales) if kind == "int4" else flat[-2]
    if group is None:
        return None
    kept = scales[..., ::group, :]
    if not np.array_equal(np.repeat(kept, group, axis=-2), scales):
        return None
    scales = kept if kind == "int4" else kept[..., 0, :]
    return matrix_of(values, scales, kind, shape, dtype, factors)


def _group(scales: np.ndarray) -> int | None:
    """Consecutive inputs of every output that share a scale, as few as half of the inputs divides
    into; None: there is no such size."""
    inputs = scales.shape[-2]
    changes: Any = np.diff(scales, axis=-2) != 0
    places = np.flatnonzero(changes.any(axis=(-1, *range(changes.ndim - 2)))) + 1
    size = int(np.gcd.reduce(places, initial=inputs // 2))
    return size if inputs % 2 == 0 and size >= 2 else None
