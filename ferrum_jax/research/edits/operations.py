"""What edits do to an activation: frozen operations, each over all tokens at once.

Dimension key: T tokens, R rows (requests) of an edit's arrays, n units or positions that an edit
names, U units of a site (heads, neurons), M samples to draw from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from ferrum_jax.models.taps import rows_of
from ferrum_jax.types import Place, RequestError

NOWHERE = -(2**30)
"""A padded entry of a list of positions or units; matches nothing."""


@dataclass(frozen=True)
class Add:
    """`x + scale * vector`. values: vector `[R, *site]`, scale `[R]`."""

    def __call__(self, x: Array, values: dict[str, Any], place: Place, layer: int) -> Array:
        scale_T = rows_of(jnp.asarray(values["scale"]), place)
        vector = rows_of(jnp.asarray(values["vector"]), place)
        return x + scale_T.reshape(-1, *[1] * (x.ndim - 1)) * vector

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: dict[str, Any]) -> None:
        check_shape("vector", site, layer, values["vector"].shape[1:], shape)


@dataclass(frozen=True)
class Multiply:
    """`x * factor`. values: factor `[R]` or `[R, *site]`."""

    def __call__(self, x: Array, values: dict[str, Any], place: Place, layer: int) -> Array:
        factor = rows_of(jnp.asarray(values["factor"]), place)
        return x * factor.reshape(*factor.shape, *[1] * (x.ndim - factor.ndim))

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: dict[str, Any]) -> None:
        if values["factor"].ndim > 1:
            check_shape("factor", site, layer, values["factor"].shape[1:], shape)


@dataclass(frozen=True)
class Fill:
    """The whole activation becomes a constant. values: constant `[R]` or `[R, *site]`."""

    def __call__(self, x: Array, values: dict[str, Any], place: Place, layer: int) -> Array:
        constant = rows_of(jnp.asarray(values["constant"]), place)
        shape = (*constant.shape, *[1] * (x.ndim - constant.ndim))
        return jnp.broadcast_to(constant.reshape(shape), x.shape)

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: dict[str, Any]) -> None:
        if values["constant"].ndim > 1:
            check_shape("constant", site, layer, values["constant"].shape[1:], shape)


@dataclass(frozen=True)
class Skip:
    """The stream behind a layer is the one before it. No values."""

    reads_entered = True

    def __call__(self, entered: Array, values: None, place: Place, layer: int) -> Array:
        return entered

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: None) -> None:
        """Fits every layer."""


@dataclass(frozen=True)
class SetUnits:
    """Some units (heads, neurons) of some layers become zero, or constants.

    values: units int32 `[R, n, 2]` of (layer, unit); constants `[R, n, ...]`, or None for zero.
    """

    kind: str
    """What a unit is called in messages."""

    def __call__(self, x: Array, values: dict[str, Any], place: Place, layer: int) -> Array:
        units_Tn = _units_here(values["units"], place, layer)
        if values["constants"] is None:
            hit_TU = _marked(units_Tn, x.shape[1])
            return jnp.where(hit_TU.reshape(*hit_TU.shape, *[1] * (x.ndim - 2)), 0, x)
        return _with_units(x, units_Tn, rows_of(jnp.asarray(values["constants"]), place))

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: dict[str, Any]) -> None:
        check_units(self.kind, layer, shape[0], values["units"])
        if values["constants"] is not None:
            name = f"value per {self.kind}"
            check_shape(name, site, layer, values["constants"].shape[2:], shape[1:])


@dataclass(frozen=True)
class DrawUnits:
    """Some units of some layers take the value that they have at a token of another text.

    values: units int32 `[R, n, 2]`; samples `[R, n, M, ...]`, of which the first count `[R]` are
    drawn from; seed uint32 `[R]`. Which one follows from the seed and the token's position, so it
    is the same for all units of a token, and in every batch.
    """

    kind: str

    def __call__(self, x: Array, values: dict[str, Any], place: Place, layer: int) -> Array:
        units_Tn = _units_here(values["units"], place, layer)
        seeds_T = rows_of(jnp.asarray(values["seed"]), place)
        counts_T = rows_of(jnp.asarray(values["count"]), place)
        drawn_T = _draw(seeds_T, place.positions, counts_T)
        samples, rows_T = jnp.asarray(values["samples"]), place.rows
        if samples.shape[0] == 1:
            rows_T = jnp.zeros_like(rows_T)
        return _with_units(x, units_Tn, samples[rows_T, :, drawn_T])

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: dict[str, Any]) -> None:
        check_units(self.kind, layer, shape[0], values["units"])
        name = f"sample per {self.kind}"
        check_shape(name, site, layer, values["samples"].shape[3:], shape[1:])


@dataclass(frozen=True)
class Patch:
    """Tokens at given positions take given activations.

    values: activations `[R, n, *site]`; positions int32 `[R, n, 2]` of (position, from the prompt's
    end); units int32 `[R, m]` to which the patch is limited, or None.
    """

    def __call__(self, x: Array, values: dict[str, Any], place: Place, layer: int) -> Array:
        at_Tn = _positions(values["positions"], place)
        match_Tn = at_Tn == place.positions[:, None]
        index_T = jnp.argmax(match_Tn, axis=1)
        activations, rows_T = jnp.asarray(values["activations"]), place.rows
        if activations.shape[0] == 1:
            rows_T = jnp.zeros_like(rows_T)
        given = self._fitted(activations[rows_T, index_T], x.shape[1:], place.positions)
        chosen = jnp.any(match_Tn, axis=1).reshape(-1, *[1] * (x.ndim - 1))
        if values["units"] is not None:
            units_TU = _marked(rows_of(jnp.asarray(values["units"]), place), x.shape[1])
            chosen &= units_TU.reshape(*units_TU.shape, *[1] * (x.ndim - 2))
        return jnp.where(chosen, given.astype(x.dtype), x)

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: dict[str, Any]) -> None:
        check_shape("activation", site, layer, values["activations"].shape[2:], shape)
        if values["units"] is not None:
            _check_range("unit", layer, shape[0], values["units"])

    def _fitted(self, given: Array, shape: tuple[int, ...], positions_T: Array) -> Array:
        return given


@dataclass(frozen=True)
class PatchPattern(Patch):
    """`Patch` of attention weights: a key that the given ones do not reach has weight 0, and so
    has one that stands behind its query."""

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: dict[str, Any]) -> None:
        given = values["activations"].shape[2:]
        if len(given) != 2 or given[0] != shape[0]:
            raise RequestError(
                f"the pattern has the shape [T, {', '.join(map(str, given))}]; layer {layer} has "
                f"{shape[0]} heads: give [T, {shape[0]}, keys], as llm.capture returns it"
            )
        if values["units"] is not None:
            _check_range("head", layer, shape[0], values["units"])

    def _fitted(self, given: Array, shape: tuple[int, ...], positions_T: Array) -> Array:
        missing = max(0, shape[-1] - given.shape[-1])
        given = jnp.pad(given, ((0, 0), (0, 0), (0, missing)))[..., : shape[-1]]
        seen_TS = jnp.arange(shape[-1]) <= positions_T[:, None]
        return jnp.where(seen_TS[:, None], given, 0)


@dataclass(frozen=True)
class KeepExperts:
    """Only the named experts can be routed to. values: experts int32 `[R, n]`."""

    def __call__(self, x: Array, values: dict[str, Any], place: Place, layer: int) -> Array:
        kept_TE = _marked(rows_of(jnp.asarray(values["experts"]), place), x.shape[1])
        # Finite: a softmax over it has no nan, and exactly zero where it stands.
        return jnp.where(kept_TE, x, jnp.finfo(x.dtype).min)

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: dict[str, Any]) -> None:
        _check_range("expert", layer, shape[0], values["experts"])


@dataclass(frozen=True)
class Custom:
    """A user's function over one token's activation and the arrays of its request."""

    function: Callable[..., Any]

    def __call__(self, x: Array, values: tuple[Any, ...], place: Place, layer: int) -> Array:
        arrays = [rows_of(jnp.asarray(value), place) for value in values]
        return jax.vmap(self.function)(x, *arrays)

    def check(self, site: str, layer: int, shape: tuple[int, ...], values: Any) -> None:
        if -1 in shape:
            return
        token = jax.ShapeDtypeStruct(shape, jnp.float32)
        rows = [jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for v in values]
        try:
            result = jax.eval_shape(self.function, token, *rows)
        except Exception as error:
            raise RequestError(
                f"the function of the edit at {site}, layer {layer} fails on one token's "
                f"activation of shape {shape}; write it with jax.numpy. It says: {error}"
            ) from error
        if getattr(result, "shape", None) != shape:
            raise RequestError(
                f"the function of the edit at {site}, layer {layer} returns "
                f"{getattr(result, 'shape', result)}; it must keep one token's shape {shape}"
            )


def check_shape(
    name: str, site: str, layer: int, given: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    """Raise `RequestError` unless the shapes are equal; -1 fits any size."""
    fits = len(given) == len(wanted) and all(
        w in (-1, g) for g, w in zip(given, wanted, strict=True)
    )
    if not fits:
        raise RequestError(
            f"the {name} has shape {tuple(given)}; {site} of layer {layer} takes {tuple(wanted)} "
            "for a token"
        )


def check_units(kind: str, layer: int, count: int, pairs: Any) -> None:
    """Raise `RequestError` if a (layer, unit) of this layer names a unit that it does not have."""
    if not isinstance(pairs, Tracer):
        pairs = np.asarray(pairs).reshape(-1, 2)
        _check_range(kind, layer, count, pairs[pairs[:, 0] == layer, 1])


def _check_range(kind: str, layer: int, count: int, units: Any) -> None:
    if isinstance(units, Tracer):
        return
    for unit in np.asarray(units).reshape(-1).tolist():
        if unit != NOWHERE and not 0 <= unit < count:
            raise RequestError(
                f"{kind} {unit} does not exist in layer {layer}, which has 0 to {count - 1}"
            )


def _units_here(units: Any, place: Place, layer: int) -> Int[Array, "T n"]:
    """Each token's units in this layer; `NOWHERE` for those of other layers."""
    units_Tn2 = rows_of(jnp.asarray(units), place)
    return jnp.where(units_Tn2[..., 0] == layer, units_Tn2[..., 1], NOWHERE)


def _marked(units_Tn: Array, count: int) -> Bool[Array, "T U"]:
    """Which of `count` units each token names; `NOWHERE` marks one that is cut off again."""
    spare = jnp.zeros((units_Tn.shape[0], count + 1), bool)
    tokens_T1 = jnp.arange(units_Tn.shape[0])[:, None]
    return spare.at[tokens_T1, _or_spare(units_Tn, count)].set(True)[:, :count]


def _or_spare(units_Tn: Array, count: int) -> Int[Array, "T n"]:
    """The units, and `count` for those that are `NOWHERE`."""
    return jnp.where(units_Tn == NOWHERE, count, units_Tn)


def _with_units(x_TU: Array, units_Tn: Array, given_Tn: Array) -> Array:
    """`x` with some units of each token set."""
    count = x_TU.shape[1]
    spare = jnp.pad(x_TU, ((0, 0), (0, 1), *[(0, 0)] * (x_TU.ndim - 2)))
    at = (jnp.arange(x_TU.shape[0])[:, None], _or_spare(units_Tn, count))
    return spare.at[at].set(given_Tn.astype(x_TU.dtype))[:, :count]


def _positions(positions: Any, place: Place) -> Int[Array, "T n"]:
    """Absolute positions, as each token's sequence counts them."""
    pairs_Tn2 = rows_of(jnp.asarray(positions), place)
    return pairs_Tn2[..., 0] + pairs_Tn2[..., 1] * place.prompt_lens[:, None]


def _draw(seeds_T: Array, positions_T: Array, counts_T: Array) -> Int[Array, " T"]:
    """A sample for each token, uniform in `[0, count)`: a function of (seed, position)."""

    def one(seed: Array, position: Array, count: Array) -> Array:
        key = jax.random.fold_in(jax.random.PRNGKey(seed), position)
        return jax.random.randint(key, (), 0, count)

    return jax.vmap(one)(seeds_T, positions_T, counts_T)
